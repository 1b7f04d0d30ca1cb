// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// `verbs steerd`: opens AF_PACKET sockets, and passes them to processes of users that may have them.
///
/// A socket that is lent is the process's own, with a filter that nobody takes off, and outlives this; it is noted in a file for the
/// count alone. A connection is one request and one answer. Nobody can hold it up: nothing here waits for a single connection, those of a user are
/// counted, and the oldest of them gives way.
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
        self.log = log
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
        for (token, connection) in connections where connection.deadline < now { connections[token] = nil }
    }

    private func accept() {
        // Bounded, so that those that are there are answered in between.
        for _ in 0..<64 {
            guard let socket = listener.accepted() else { return }
            guard let peer = socket.peer else { continue }
            let own = connections.filter { $0.value.uid == peer.uid }.keys
            if own.count >= Self.connectionsOfUserMax { connections[own.min() ?? 0] = nil }
            if connections.count >= Self.connectionCountMax { connections[connections.keys.min() ?? 0] = nil }
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
        connections[token] = nil
        let who = "uid \(connection.uid), pid \(connection.pid)"
        do throws(Refusal) {
            let request = try LendingRequest(parsing: request)
            let lent = try grant(request, to: connection.uid)
            let isSent = connection.socket.send(
                LendingReply.granted(lent.rules).bytes, passing: lent.socket.descriptor)
            let subject = Self.subject(request)
            log(
                isSent
                    ? "\(who): lent a socket on \(request.interface) \(subject)"
                    : "\(who): is gone, or takes no answer: \(request.interface) \(subject)")
        } catch {
            log("\(who): refused: \(error.reason)")
            _ = connection.socket.send(LendingReply.refused(error.reason).bytes)
        }
    }

    private static func subject(_ request: LendingRequest) -> String {
        if request.purpose == .send { return "to send" }
        return "for " + request.rules.map { "'\($0)'" }.joined(separator: ", ")
    }

    private func grant(
        _ request: LendingRequest, to uid: UInt32
    ) throws(Refusal) -> LentSocket {
        let rules = access.rules(of: uid, request.interface)
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
            return LentSocket(socket: socket, rules: passing)
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
