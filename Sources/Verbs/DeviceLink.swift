// SPDX-License-Identifier: Apache-2.0

/// What the packets of an open embedded device go by; `VERBS_SOFT_LINK` chooses. Whatever it is, UDP sockets stay open
/// beside it for what it does not take.
public struct DeviceLink: Sendable, Equatable, CustomStringConvertible {
    /// `udp` (sockets alone), `packet` (whole frames by AF_PACKET) or `xdp` (whole frames by AF_XDP).
    public let kind: String
    /// How, where there is more than one way (`native, copying`); empty otherwise.
    public let detail: String
    /// Why nothing faster was chosen; empty where there is nothing faster.
    public let reason: String

    /// The kind and how.
    public var description: String { detail.isEmpty ? kind : "\(kind) (\(detail))" }
}
