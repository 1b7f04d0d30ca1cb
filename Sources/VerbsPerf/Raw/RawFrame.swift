// SPDX-License-Identifier: Apache-2.0

/// The headers of a test's frames: Ethernet, IPv4, UDP without checksum.
struct RawFrame: Equatable {
    static let headerByteCount = 42

    var destinationMAC: UInt64
    var sourceMAC: UInt64
    var sourceAddress: UInt32
    var destinationAddress: UInt32
    var sourcePort: UInt16
    var destinationPort: UInt16

    /// A frame of `size` bytes, at least the headers; behind them zeros.
    func bytes(size: Int) -> [UInt8] {
        func big(_ value: some FixedWidthInteger, _ count: Int) -> [UInt8] {
            (0..<count).reversed().map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
        }
        let ethernet = big(destinationMAC, 6) + big(sourceMAC, 6) + [0x08, 0x00]
        var ip: [UInt8] = [0x45, 0] + big(size - 14, 2) + [0, 0, 0x40, 0, 64, 17, 0, 0]
        ip += big(sourceAddress, 4) + big(destinationAddress, 4)
        var sum = stride(from: 0, to: 20, by: 2).reduce(0) { $0 + Int(ip[$1]) << 8 + Int(ip[$1 + 1]) }
        while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
        ip.replaceSubrange(10..<12, with: big(~sum, 2))
        let udp = big(sourcePort, 2) + big(destinationPort, 2) + big(size - 34, 2) + [0, 0]
        return ethernet + ip + udp + [UInt8](repeating: 0, count: size - Self.headerByteCount)
    }
}
