// SPDX-License-Identifier: Apache-2.0
import Glibc

/// What frames need to know of a network interface.
struct InterfaceFacts: Equatable {
    let name: String
    /// The Ethernet address, in the low 48 bits.
    let mac: UInt64
    /// Bytes behind the Ethernet header.
    let mtu: Int
    /// The IPv4 address, 0 if it has none.
    let address: UInt32

    // linux/sockios.h
    private static let getAddress: UInt = 0x8915
    private static let getMTU: UInt = 0x8921
    private static let getHardwareAddress: UInt = 0x8927
    /// `struct ifreq`: 16 bytes of name, and what is asked for.
    private static let requestByteCount = 40

    init(named name: String) throws(PerfError) {
        guard let hardware = Self.ask(Self.getHardwareAddress, name), let mtu = Self.ask(Self.getMTU, name) else {
            throw .device("Cannot ask for the Ethernet address and MTU of \(name): \(errorText(errno)).")
        }
        self.name = name
        // Behind sa_family.
        mac = hardware[18..<24].reduce(0) { $0 << 8 | UInt64($1) }
        self.mtu = Int(mtu[16..<20].reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) })
        // sockaddr_in: family, port, address.
        address = Self.ask(Self.getAddress, name)?[20..<24].reduce(0) { $0 << 8 | UInt32($1) } ?? 0
    }

    private static func ask(_ request: UInt, _ name: String) -> [UInt8]? {
        var bytes = [UInt8](repeating: 0, count: requestByteCount)
        for (index, byte) in name.utf8.prefix(15).enumerated() { bytes[index] = byte }
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        guard descriptor >= 0 else { return nil }
        defer { _ = close(descriptor) }
        // The request is as long as the structure; written during the call.
        let result = unsafe bytes.withUnsafeMutableBytes { unsafe ioctl(descriptor, request, $0.baseAddress!) }
        return result == 0 ? bytes : nil
    }
}
