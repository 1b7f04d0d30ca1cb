// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// A network interface as it is now, with its addresses as GIDs.
package struct NetworkInterface: Sendable, Equatable {
    /// An address of the interface.
    package struct Address: Sendable, Equatable {
        /// The address; IPv4 as IPv4-mapped IPv6, as in a RoCE v2 GID table.
        package let gid: GID
        /// Length of the network prefix in bits of the address as written (0...32 or 0...128).
        package let prefixLength: Int
        /// Interface index for a link-local IPv6 address, else 0: `sin6_scope_id`.
        package let scope: UInt32

        package init(gid: GID, prefixLength: Int, scope: UInt32) {
            self.gid = gid
            self.prefixLength = prefixLength
            self.scope = scope
        }
    }

    package let name: String
    /// The kernel's interface index.
    package let index: Int
    /// In bytes, without the link-layer header.
    package let mtu: Int
    package let isUp: Bool
    /// Up and with carrier.
    package let isRunning: Bool
    package let isLoopback: Bool
    package let isMulticast: Bool
    /// Six bytes, zero where the interface has no Ethernet address.
    package let hardwareAddress: [UInt8]
    /// In the kernel's order: IPv4 first, then IPv6.
    package internal(set) var addresses: [Address]

    /// All interfaces of this network namespace, by index. The corresponding C function is `getifaddrs`.
    package static func all() throws(PacketIOError) -> [NetworkInterface] {
        var head: UnsafeMutablePointer<ifaddrs>?
        guard unsafe getifaddrs(&head) == 0 else { throw SystemError.last("getifaddrs") }
        defer { unsafe freeifaddrs(head) }
        // Any socket serves for the interface ioctls.
        let socket = try FileDescriptor(socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket(AF_UNIX)")

        var found: [String: NetworkInterface] = [:]
        var entry = unsafe head
        while let current = unsafe entry {
            unsafe entry = current.pointee.ifa_next
            // An IPv4 address with a label is listed under "eth0:label".
            let listed = unsafe String(cString: current.pointee.ifa_name)
            let name = String(listed.prefix { $0 != ":" })
            let flags = unsafe Int32(bitPattern: current.pointee.ifa_flags)
            var interface = found[name] ?? NetworkInterface(name: name, flags: flags, socket: socket.number)
            if let address = unsafe Address(current.pointee, index: interface.index) {
                interface.addresses.append(address)
            }
            found[name] = interface
        }
        return found.values.filter { $0.index > 0 }.sorted { $0.index < $1.index }
    }

    /// The interface of this name as it is now, or `nil`.
    package static func named(_ name: String) throws(PacketIOError) -> NetworkInterface? {
        try all().first { $0.name == name }
    }

    private init(name: String, flags: Int32, socket: Int32) {
        self.name = name
        index = unsafe Int(if_nametoindex(name))
        mtu = unsafe Int(max(0, clinuxnet_interface_mtu(socket, name)))
        isUp = flags & clinuxnet_interface_up != 0
        isRunning = isUp && flags & clinuxnet_interface_running != 0
        isLoopback = flags & clinuxnet_interface_loopback != 0
        isMulticast = flags & clinuxnet_interface_multicast != 0
        var hardware = [UInt8](repeating: 0, count: 6)
        if unsafe clinuxnet_interface_hardware(socket, name, &hardware) != Int32(ARPHRD_ETHER) {
            hardware = [UInt8](repeating: 0, count: 6)
        }
        hardwareAddress = hardware
        addresses = []
    }
}

extension NetworkInterface.Address {
    /// The address of one entry of getifaddrs, or `nil` where it is of another family.
    fileprivate init?(_ entry: ifaddrs, index: Int) {
        guard let address = unsafe UnsafeRawPointer(entry.ifa_addr) else { return nil }
        switch unsafe clinuxnet_address_family(entry.ifa_addr) {
        case AF_INET:
            guard let gid = unsafe SocketAddress.read(address, length: SocketAddress.lengthIPv4)?.gid else {
                return nil
            }
            self.gid = gid
            prefixLength = unsafe Self.prefixLength(entry, from: 4, bytes: 4)
            scope = 0
        case AF_INET6:
            guard let gid = unsafe SocketAddress.read(address, length: SocketAddress.lengthIPv6)?.gid else {
                return nil
            }
            self.gid = gid
            prefixLength = unsafe Self.prefixLength(entry, from: 8, bytes: 16)
            scope = gid.isLinkLocal ? UInt32(index) : 0
        default:
            return nil
        }
    }

    /// The ones in a netmask; a host prefix where there is none.
    private static func prefixLength(_ entry: ifaddrs, from offset: Int, bytes: Int) -> Int {
        guard let mask = unsafe UnsafeRawPointer(entry.ifa_netmask) else { return bytes * 8 }
        return unsafe UnsafeRawBufferPointer(start: mask + offset, count: bytes).reduce(0) { $0 + $1.nonzeroBitCount }
    }
}
