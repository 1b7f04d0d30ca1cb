// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// `verbs steerd`: opens AF_PACKET and AF_XDP sockets, and passes them to processes of users that may have them.
///
/// A socket that is lent is the process's own, with a filter that nobody takes off, and outlives this; it is noted in a file for the
/// count alone. A connection is one request and one answer, but for AF_XDP: there it stays open, for further rules. Nobody can hold it
/// up: nothing here waits for a single connection, those of a user are counted, and the oldest of them gives way.
package final class LendingServer {
    /// Connections that a user may have at a time, and that there may be.
    package static let connectionsOfUserMax = 16
    package static let connectionCountMax = 256
    private static let patienceNanoseconds: UInt64 = 5_000_000_000

    private final class Connection {
        let socket: LocalSocket
        let uid: UInt32
        let pid: Int32
        let deadline: UInt64
        /// What was lent of XDP: then the connection stays.
        var lease: InterfaceLease?

        init(_ socket: consuming LocalSocket, uid: UInt32, pid: Int32, deadline: UInt64) {
            self.socket = socket
            self.uid = uid
            self.pid = pid
            self.deadline = deadline
        }
    }

    private let path: String
    /// Who may have what from now on. What is lent is the borrowers' own, and stays until they close it.
    package var access: AccessList
    private let log: (String) -> Void
    private let listener: LocalSocket
    private var lent: LentSockets
    private let waiter: Waiter
    /// By token, which grows: the smallest is the oldest.
    private var connections: [UInt64: Connection] = [:]
    private var nextToken: UInt64 = 1

    /// Listens; from now on processes may connect.
    package init(path: String, access: AccessList, log: @escaping (String) -> Void) throws(PacketIOError) {
        self.path = path
        self.access = access
        // What users ask for is part of it, and no terminal is to act on that.
        self.log = { text in
            log(
                String(
                    String.UnicodeScalarView(
                        text.unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : $0 })))
        }
        waiter = try Waiter()
        listener = try LocalSocket.listening(at: path)
        lent = try LentSockets(besides: path, namespace: listener.networkNamespace)
        try waiter.add(listener.descriptor, token: 0)
    }

    /// Answers what comes within some milliseconds.
    package func serve(milliseconds: UInt64) {
        let outcome = waiter.wait(until: Waiter.now + milliseconds * 1_000_000)
        let tokens = (0..<outcome.readyCount).map(waiter.readyToken)
        for token in tokens where token != 0 { answer(token) }
        if tokens.contains(0) { accept() }
        let now = Waiter.now
        for (token, connection) in connections
        where connection.lease == nil && connection.deadline < now { connections[token] = nil }
    }

    private func accept() {
        // Bounded, so that those that are there are answered in between.
        for _ in 0..<64 {
            guard let socket = listener.accepted() else { return }
            guard let peer = socket.peer else { continue }
            let own = connections.filter { $0.value.uid == peer.uid && $0.value.lease == nil }.keys
            if own.count >= Self.connectionsOfUserMax { connections[own.min() ?? 0] = nil }
            let idle = connections.filter { $0.value.lease == nil }.keys
            if idle.count >= Self.connectionCountMax { connections[idle.min() ?? 0] = nil }
            do throws(PacketIOError) {
                try waiter.add(socket.descriptor, token: nextToken)
            } catch {
                log("a connection of uid \(peer.uid) is lost: \(error)")
                continue
            }
            connections[nextToken] = Connection(
                socket, uid: peer.uid, pid: peer.pid, deadline: Waiter.now + Self.patienceNanoseconds)
            nextToken += 1
        }
    }

    private func answer(_ token: UInt64) {
        guard let connection = connections[token] else { return }
        let request: [UInt8]
        switch connection.socket.receive() {
        case .nothing: return
        case .closed:
            connections[token] = nil
            return
        // A socket that comes along is closed here.
        case .message(let bytes, _): request = bytes
        }
        let who = "uid \(connection.uid), pid \(connection.pid)"
        if let lease = connection.lease {
            if !change(request, lease, connection, who) { connections[token] = nil }
            return
        }
        connections[token] = nil
        do throws(Refusal) {
            let request = try LendingRequest(parsing: request)
            if let mode = request.purpose.mode {
                if try lend(request.interface, mode, to: connection, who) { connections[token] = connection }
                return
            }
            let lent = try grant(request, to: connection.uid)
            let isSent = connection.socket.send(
                LendingReply.granted(lent.rules, lent.sources).bytes, passing: [lent.socket.descriptor])
            let subject = Self.subject(request, lent.sources)
            log(
                isSent
                    ? "\(who): lent a socket on \(request.interface) \(subject)"
                    : "\(who): is gone, or takes no answer: \(request.interface) \(subject)")
        } catch {
            log("\(who): refused: \(error.reason)")
            _ = connection.socket.send(LendingReply.refused(error.reason).bytes)
        }
    }

    private static func subject(_ request: LendingRequest, _ sources: SourceCheck?) -> String {
        if request.purpose == .send { return "to send" + (sources.map { " from \($0)" } ?? "") }
        return "for " + request.rules.map { "'\($0)'" }.joined(separator: ", ")
    }

    private func grant(
        _ request: LendingRequest, to uid: UInt32
    ) throws(Refusal) -> LentSocket {
        let rules = access.rules(of: uid, request.interface, by: .send)
        guard !rules.isEmpty else {
            throw Refusal(
                "uid \(uid) has no line for \(request.interface) in its access file; one would be `user \(uid) interface "
                    + "\(request.interface) send RULE`")
        }
        let list = rules.map { "'\($0)'" }.joined(separator: ", ")
        for rule in request.rules where !rules.contains(where: { $0.covers(rule) }) {
            throw Refusal("uid \(uid) may not have '\(rule)' of \(request.interface): its access file allows \(list)")
        }
        try checkCount(of: uid)
        do throws(PacketIOError) {
            guard let interface = try NetworkInterface.all().first(where: { $0.name == request.interface }) else {
                throw PacketIOError.invalid("its network namespace has no interface \(request.interface)")
            }
            let passing = request.purpose == .receive ? rules : []
            guard let filter = AccessFilter.program(for: passing, interface: interface.index) else {
                throw PacketIOError.invalid("the rules of uid \(uid) do not fit in a filter")
            }
            let socket = try UnboundPacketSocket()
            try socket.lock(filter)
            try lent.add(socket, of: uid)
            let sources = request.purpose == .send ? access.sources(of: uid, request.interface) : nil
            return LentSocket(socket: socket, rules: passing, sources: sources)
        } catch {
            throw Refusal("it cannot open the socket: \(error)")
        }
    }

    private func checkCount(of uid: UInt32) throws(Refusal) {
        let count: Int
        do throws(PacketIOError) {
            count = try lent.count(of: uid)
        } catch {
            throw Refusal("it cannot count the sockets of uid \(uid): \(error)")
        }
        let maximum = access.socketCountMax(of: uid)
        guard count >= maximum else { return }
        throw Refusal(
            "uid \(uid) has \(count) lent sockets, and its access file allows \(maximum): close one, or end a process that has some; "
                + "`user \(uid) sockets \(max(maximum * 2, 16))` in the file would allow more")
    }
}

// MARK: - XDP

extension LendingRequest.Purpose {
    /// Where the program runs; `nil` for a packet socket.
    fileprivate var mode: XDPAttachment.Mode? {
        switch self {
        case .xdp: .native
        case .xdpGeneric: .generic
        case .receive, .send: nil
        }
    }
}

extension LendingServer {
    /// Lends the sockets of an interface, without rules.
    /// - Returns: whether the connection is to stay.
    private func lend(
        _ name: String, _ mode: XDPAttachment.Mode, to connection: Connection, _ who: String
    ) throws(Refusal) -> Bool {
        guard !access.rules(of: connection.uid, name, by: .xdp).isEmpty else {
            throw Refusal(
                "uid \(connection.uid) has no line with `xdp` for \(name) in its access file; one would be `user \(connection.uid) "
                    + "interface \(name) xdp RULE`")
        }
        var loans: [XDPLoan] = []
        do throws(PacketIOError) {
            guard let interface = try NetworkInterface.all().first(where: { $0.name == name }) else {
                throw PacketIOError.invalid("its network namespace has no interface \(name)")
            }
            if let reason = XDPSelection.impossibility(interface) { throw PacketIOError.invalid("steerd's \(reason)") }
            let layout = XDPFrames.layout(interface)
            // Where somebody else has it nothing is tried: that takes time.
            let isTaken = connections.values.contains { $0.lease?.interface.index == interface.index }
            let lease: InterfaceLease
            do throws(PacketIOError) {
                guard !isTaken else { return refuseBusy(name, connection, who) }
                lease = try InterfaceLease(interface, mode, layout, loans: &loans)
            } catch {
                if error.isBusy { return refuseBusy(name, connection, who) }
                throw PacketIOError.invalid(XDPSelection.reason(error, interface))
            }
            let isSent = connection.socket.send(
                LendingReply.frames(layout.text).bytes,
                passing: loans.flatMap { [$0.descriptor, $0.memoryDescriptor] } + [lease.countsDescriptor])
            connection.lease = lease
            log("\(who): \(isSent ? "lent" : "is gone, or takes no answer:") AF_XDP sockets of \(name)")
            return isSent
        } catch {
            throw Refusal("it cannot lend \(name) by XDP: \(error)")
        }
    }

    private func refuseBusy(_ name: String, _ connection: Connection, _ who: String) -> Bool {
        let reason = "another process has \(name) by XDP: end that one, or take packet-ring"
        log("\(who): refused: \(reason)")
        _ = connection.socket.send(LendingReply.busy(reason).bytes)
        return false
    }

    /// Carries a change of the rules out.
    /// - Returns: whether the borrower takes the answer.
    private func change(
        _ request: [UInt8], _ lease: InterfaceLease, _ connection: Connection, _ who: String
    ) -> Bool {
        do throws(Refusal) {
            switch try LendingChange(parsing: request) {
            case .insert(let id, let rule):
                let rules = access.rules(of: connection.uid, lease.interface.name, by: .xdp)
                guard rules.contains(where: { $0.covers(rule) }) else {
                    let list = rules.map { "'\($0)'" }.joined(separator: ", ")
                    throw Refusal(
                        "uid \(connection.uid) may not have '\(rule)' of \(lease.interface.name) by XDP: its access file allows "
                            + (list.isEmpty ? "nothing" : list))
                }
                let (entry, attachment) = try lease.insert(rule, id)
                log("\(who): \(lease.interface.name) by XDP for '\(rule)'")
                return connection.socket.send(
                    LendingReply.inserted(entry).bytes, passing: attachment.map { [$0] } ?? [])
            case .remove(let id):
                try lease.remove(id)
                return connection.socket.send(LendingReply.removed.bytes)
            }
        } catch {
            log("\(who): refused: \(error.reason)")
            return connection.socket.send(LendingReply.refused(error.reason).bytes)
        }
    }
}
