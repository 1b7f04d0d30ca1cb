// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO

/// A socket that `verbs steerd` lent.
package struct LentSocket: ~Copyable {
    /// The caller's from now on, whatever becomes of the lender.
    package let socket: UnboundPacketSocket
    /// What its filter lets pass; nothing for one that is for sending.
    package let rules: [FlowRule]
    /// In whose name the lender lets the holder send, which is the holder's to see to; `nil` for any.
    package let sources: SourceCheck?

    /// The socket alone.
    package consuming func takeSocket() -> UnboundPacketSocket { socket }
}

/// The side of `verbs steerd` that asks: for processes without CAP_NET_RAW.
package struct LendingClient: Sendable {
    /// Where `verbs steerd` listens if nothing is said.
    package static let defaultPath = "/run/verbs/steerd.sock"
    static let answerMilliseconds: Int32 = 3000
    /// How often an interface is asked for that somebody has.
    private static let busyCountMax = 10

    package let path: String

    package init(path: String) { self.path = path }

    /// Asks for a socket that receives what all the rules match; it may receive more, see ``LentSocket/rules``.
    package func receiving(_ rules: [FlowRule], on interface: String) throws(Refusal) -> LentSocket {
        try ask(LendingRequest(.receive, interface: interface, rules: rules))
    }

    /// Asks for a socket that sends, and receives nothing.
    package func sending(on interface: String) throws(Refusal) -> LentSocket {
        try ask(LendingRequest(.send, interface: interface, rules: []))
    }

    /// Asks for AF_XDP sockets of an interface, which receive what rules of the lent program select, and do not send.
    package func interface(_ name: String, mode: XDPAttachment.Mode) throws(Refusal) -> LentInterface {
        let request = LendingRequest(mode == .native ? .xdp : .xdpGeneric, interface: name, rules: [])
        var attempts = 0
        while true {
            let connection = try connect(request)
            let (reply, passed) = try Self.answer(
                connection, path, descriptorCountMax: 2 * XDPFramesLayout.queueCountMax + 1)
            switch reply {
            case .busy(let reason):
                // Who gives it back has done so some milliseconds before the kernel has.
                attempts += 1
                guard attempts < Self.busyCountMax else { throw Refusal("steerd at \(path) refuses: \(reason)") }
                _ = (try? Waiter())?.wait(until: Waiter.now + 20_000_000)
            case .frames(let text):
                guard let layout = XDPFramesLayout(text), let socket = passed.first else { throw unknown }
                try checkNamespace(of: socket, connection)
                return LentInterface(path: path, connection: connection, layout, passed)
            case .granted, .inserted, .removed, .refused: throw unknown
            }
        }
    }

    private func checkNamespace(of socket: Int32, _ connection: borrowing LocalSocket) throws(Refusal) {
        guard LocalSocket.networkNamespace(of: socket) == connection.networkNamespace else {
            throw Refusal(
                "steerd at \(path) serves another network namespace: start one in this, and set VERBS_STEERD to its socket"
            )
        }
    }

    private func connect(_ request: LendingRequest) throws(Refusal) -> LocalSocket {
        let connection: LocalSocket
        do throws(PacketIOError) {
            connection = try LocalSocket.connected(to: path)
        } catch {
            throw Refusal(
                "no steerd answers at \(path): \(error); start `verbs steerd`, or set VERBS_STEERD to its socket")
        }
        guard request.bytes.count <= LendingRequest.byteCountMax else {
            throw Refusal("the rules are too many for a request to steerd at \(path): attach fewer")
        }
        guard connection.send(request.bytes) else {
            throw Refusal("steerd at \(path) takes no request: is it running, and of the same version?")
        }
        return connection
    }

    private var unknown: Refusal { Refusal("what answers at \(path) is no steerd of this version") }

    /// Waits for the answer to a request; a refusal is thrown.
    static func answer(
        _ connection: borrowing LocalSocket, _ path: String, descriptorCountMax: Int
    ) throws(Refusal) -> (LendingReply, PassedDescriptors) {
        let (reply, passed) = try anyAnswer(connection, path, descriptorCountMax: descriptorCountMax)
        if case .refused(let reason) = reply { throw Refusal("steerd at \(path) refuses: \(reason)") }
        return (reply, passed)
    }

    /// Waits for the answer to a request, which may be a refusal; what is thrown is that none came.
    static func anyAnswer(
        _ connection: borrowing LocalSocket, _ path: String, descriptorCountMax: Int,
        within milliseconds: Int32 = answerMilliseconds
    ) throws(Refusal) -> (LendingReply, PassedDescriptors) {
        switch connection.receive(within: milliseconds, descriptorCountMax: descriptorCountMax) {
        case .nothing:
            throw Refusal("steerd at \(path) did not answer within \(milliseconds) ms: is it stopped?")
        case .closed: throw Refusal("steerd at \(path) closed the connection without an answer: try again")
        case .message(let bytes, let passed):
            guard let reply = LendingReply(parsing: bytes) else {
                throw Refusal("what answers at \(path) is no steerd of this version")
            }
            return (reply, passed)
        }
    }

    private func ask(_ request: LendingRequest) throws(Refusal) -> LentSocket {
        let connection = try connect(request)
        let (reply, passed) = try Self.answer(connection, path, descriptorCountMax: 1)
        guard case .granted(let rules, let sources) = reply else { throw unknown }
        guard let socket = passed.takePacketSocket() else {
            throw Refusal(
                "steerd at \(path) granted the flow, and no socket came: has this process used up its descriptors?")
        }
        try checkNamespace(of: socket.descriptor, connection)
        return LentSocket(socket: socket, rules: rules, sources: sources)
    }
}
