// SPDX-License-Identifier: Apache-2.0

/// What peers of this package offer each other beyond the specification: the last eight bytes of the private data of a
/// REQ, and of the REP that answers it, where the application leaves them free.
///
/// ```
///   0  0x73 0x77 0x76 0x62    4  version, 1    5  capabilities    6  their complement    7  0
/// ```
/// The active side offers, the passive side says what of that it takes; a peer of another kind says nothing. Private data
/// is of fixed length on the wire, padded with zeros, and an application cannot tell the padding from its peer's zeros: so
/// it is zero again when an application of this package gets to see it.
public struct PeerCapabilities: OptionSet, Hashable, Sendable {
    /// The bits.
    public let rawValue: UInt8

    /// Capabilities by their bits.
    public init(rawValue: UInt8) { self.rawValue = rawValue }

    /// A NAK for the sequence names how many packets are missing, and only those are sent again.
    public static let selectiveRepetition = PeerCapabilities(rawValue: 1)

    /// 8.
    public static var byteCount: Int { 8 }

    private var bytes: [UInt8] { [0x73, 0x77, 0x76, 0x62, 1, rawValue, ~rawValue, 0] }

    /// The private data with this at the end of its `room` bytes; as it is if it leaves less than eight.
    public func added(to privateData: [UInt8], room: Int) -> [UInt8] {
        let padding = room - privateData.count - Self.byteCount
        guard !isEmpty, padding >= 0 else { return privateData }
        return privateData + [UInt8](repeating: 0, count: padding) + bytes
    }

    /// Reads them from whole private data, and puts zeros in their place; empty if there are none.
    public static func take(from privateData: inout [UInt8]) -> PeerCapabilities {
        let start = privateData.count - byteCount
        guard start >= 0 else { return [] }
        let found = PeerCapabilities(rawValue: privateData[start + 5])
        guard Array(privateData[start...]) == found.bytes else { return [] }
        privateData.replaceSubrange(start..., with: repeatElement(0, count: byteCount))
        return found
    }
}
