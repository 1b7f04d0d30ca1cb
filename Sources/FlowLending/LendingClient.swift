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
    private static let answerMilliseconds: Int32 = 3000

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

    private func ask(_ request: LendingRequest) throws(Refusal) -> LentSocket {
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
        switch connection.receive(within: Self.answerMilliseconds) {
        case .nothing:
            throw Refusal("steerd at \(path) did not answer within \(Self.answerMilliseconds / 1000) s: is it stopped?")
        case .closed: throw Refusal("steerd at \(path) closed the connection without an answer: try again")
        case .message(let bytes, let passed):
            switch LendingReply(parsing: bytes) {
            case .refused(let reason): throw Refusal("steerd at \(path) refuses: \(reason)")
            case .granted(let rules, let sources):
                guard let socket = passed else {
                    throw Refusal(
                        "steerd at \(path) granted the flow, and no socket came: has this process used up its descriptors?"
                    )
                }
                guard LocalSocket.networkNamespace(of: socket.descriptor) == connection.networkNamespace else {
                    throw Refusal(
                        "steerd at \(path) serves another network namespace: start one in this, and set VERBS_STEERD to its socket"
                    )
                }
                return LentSocket(socket: socket, rules: rules, sources: sources)
            case nil: throw Refusal("what answers at \(path) is no steerd of this version")
            }
        }
    }
}
