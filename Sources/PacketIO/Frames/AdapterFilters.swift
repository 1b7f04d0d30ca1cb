// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The filters that a network adapter steers frames to its receive queues with: `ethtool -N`.
///
/// They are the adapter's, not the process's: what is inserted stays until it is removed, also if the process is killed.
package protocol AdapterFilters: AnyObject {
    /// Adds a filter, the bytes of `struct ethtool_rxnfc` for `ETHTOOL_SRXCLSRLINS`.
    /// - Returns: the place in the adapter's table that it got.
    /// - Throws: EOPNOTSUPP where the driver has no filters, EINVAL where it has none like this, EPERM without CAP_NET_ADMIN.
    func insert(_ filter: [UInt8]) throws(PacketIOError) -> UInt32

    /// Takes the filter at a place away.
    func remove(_ location: UInt32)
}

/// The filters of an interface of the calling thread's network namespace.
package final class EthtoolFilters: AdapterFilters {
    private static let byteCount = 192
    private static let removeCommand: UInt32 = 0x31  // ETHTOOL_SRXCLSRLDEL
    /// Of `fs.location` in `struct ethtool_rxnfc`.
    private static let locationOffset = 176

    private let interface: String
    private let socket: FileDescriptor

    package init(interface: String) throws(PacketIOError) {
        self.interface = interface
        socket = try FileDescriptor(CLinuxNet.socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket(AF_UNIX)")
    }

    package func insert(_ filter: [UInt8]) throws(PacketIOError) -> UInt32 {
        precondition(filter.count == Self.byteCount, "the bytes of struct ethtool_rxnfc")
        var filter = filter
        guard unsafe clinuxnet_interface_filter(socket.number, interface, &filter) == 0 else {
            throw SystemError.last("ioctl(ETHTOOL_SRXCLSRLINS)")
        }
        // The driver has chosen the place.
        return unsafe filter.withUnsafeBytes {
            unsafe $0.loadUnaligned(fromByteOffset: Self.locationOffset, as: UInt32.self)
        }
    }

    package func remove(_ location: UInt32) {
        var filter = [UInt8](repeating: 0, count: Self.byteCount)
        unsafe filter.withUnsafeMutableBytes {
            unsafe $0.storeBytes(of: Self.removeCommand, as: UInt32.self)
            unsafe $0.storeBytes(of: location, toByteOffset: Self.locationOffset, as: UInt32.self)
        }
        // It is gone already, or the interface is.
        _ = unsafe clinuxnet_interface_filter(socket.number, interface, &filter)
    }
}
