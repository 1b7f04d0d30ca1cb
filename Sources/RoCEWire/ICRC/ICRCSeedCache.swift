// SPDX-License-Identifier: Apache-2.0

/// Seeds of the flows and lengths that were used last, so that a run of packets costs one header's CRC and not one each.
///
/// The identification is not part of the key: what it adds to a seed depends on nothing else, and comes from two tables.
/// The value is 3 KiB and wants one owner, as the engine of a device.
public struct ICRCSeedCache: ~Copyable {
    private struct Entry {
        var flow = ICRC.Flow(source: .zero, destination: .zero, sourcePort: 0)
        var byteCount: Int = .min
        var register: UInt32 = 0
    }

    private static var slots: Int { 16 }
    private var entries = InlineArray<16, Entry>(repeating: Entry())
    /// What the high and the low byte of the identification do to the register behind the UDP header.
    private var highDeltas = InlineArray<256, UInt32>(repeating: 0)
    private var lowDeltas = InlineArray<256, UInt32>(repeating: 0)

    /// An empty cache.
    public init() {
        // The four bytes themselves, the rest of the IPv4 header (12) and UDP (8); the register takes bytes in from its
        // low end, so the first byte (the high one) is low.
        let factor = CRCPolynomial.appending(byteCount: 24)
        for byte in 0..<256 {
            highDeltas[byte] = (CRCPolynomial(bits: UInt32(byte)) * factor).bits
            lowDeltas[byte] = (CRCPolynomial(bits: UInt32(byte) << 8) * factor).bits
        }
    }

    /// The same as ``ICRC/seed(_:udpPayloadByteCount:identification:dontFragment:)`` with don't fragment set.
    public mutating func seed(
        _ flow: ICRC.Flow, udpPayloadByteCount: Int, identification: UInt16 = 0
    ) -> ICRC.Seed {
        let mixed = flow.source.low &+ flow.destination.low &+ UInt64(flow.sourcePort)
        let slot =
            Int(truncatingIfNeeded: mixed &+ UInt64(truncatingIfNeeded: udpPayloadByteCount) >> 2) & (Self.slots - 1)
        if entries[slot].byteCount != udpPayloadByteCount || entries[slot].flow != flow {
            let seed = ICRC.seed(flow, udpPayloadByteCount: udpPayloadByteCount)
            entries[slot] = Entry(flow: flow, byteCount: udpPayloadByteCount, register: seed.register)
        }
        let register = entries[slot].register
        guard identification != 0, flow.source.isIPv4Mapped else { return ICRC.Seed(register: register) }
        return ICRC.Seed(
            register: register ^ highDeltas[Int(identification >> 8)] ^ lowDeltas[Int(identification & 0xFF)])
    }
}
