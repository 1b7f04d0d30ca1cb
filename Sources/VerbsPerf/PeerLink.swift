// SPDX-License-Identifier: Apache-2.0

/// What the messages of a session go over: a TCP connection, or with `-R` a queue pair that the connection manager made.
package protocol PeerLink: AnyObject {
    /// Who connected and who accepted.
    var role: PeerConnection.Role { get }
    /// This end's address, as 16 bytes of an IPv6 or IPv4-mapped address: the GID to prefer.
    var localAddress: [UInt8] { get }

    /// Sends one message, whole.
    func send(_ bytes: [UInt8]) throws(PerfError)
    /// Receives one message of `count` bytes.
    func receive(_ count: Int, patience: PeerConnection.Patience) throws(PerfError) -> [UInt8]
    /// Looks whether the peer has said anything; takes nothing.
    func look() -> PeerConnection.Sight
    /// Ends the session, so that the last message still arrives.
    func finish()
}

extension PeerLink {
    /// One lock-step exchange: the client writes then reads, the server reads then writes.
    ///
    /// - Parameter count: bytes that the peer sends; as many as `bytes` has unless given.
    package func exchange(
        _ bytes: [UInt8], count: Int? = nil, patience: PeerConnection.Patience = .setUp
    ) throws(PerfError) -> [UInt8] {
        switch role {
        case .client:
            try send(bytes)
            return try receive(count ?? bytes.count, patience: patience)
        case .server:
            let answer = try receive(count ?? bytes.count, patience: patience)
            try send(bytes)
            return answer
        }
    }
}
