// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// The UDP port of RoCEv2.
package let roceUDPPort: UInt16 = 4791

/// How the UDP sockets of a link are made. None is ever connected: a connected socket numbers its IPv4 packets from a
/// random start, an unconnected one with path MTU discovery on leaves them at 0, which is what the ICRC needs.
enum UDPSocket {
    /// The receiving end of an address, or of a multicast group: shared with other processes by SO_REUSEPORT.
    /// `nil` where the port is taken by a socket that does not share it with us.
    static func makeReceiver(_ address: GID, scope: UInt32, bufferBytes: Int) throws(PacketIOError) -> FileDescriptor? {
        let socket = try make(address)
        let number = socket.number
        try SocketOption.require(number, SOL_SOCKET, clinuxnet_so_reuseport, 1, "SO_REUSEPORT")
        if address.isIPv4Mapped {
            SocketOption.set(number, Int32(IPPROTO_IP), IP_RECVTOS, 1)
            // Only groups that this very socket joined.
            SocketOption.set(number, Int32(IPPROTO_IP), Int32(CLINUXNET_IP_MULTICAST_ALL.rawValue), 0)
        } else {
            // rxe and hardware send UDP checksum 0 over IPv6 too.
            SocketOption.set(number, Constant.udp, Constant.udpNoCheck6Receive, 1)
            SocketOption.set(number, Int32(IPPROTO_IPV6), IPV6_RECVTCLASS, 1)
            SocketOption.set(number, Int32(IPPROTO_IPV6), Int32(CLINUXNET_IPV6_MULTICAST_ALL.rawValue), 0)
        }
        // Refused before Linux 5.0: then each packet comes by itself.
        SocketOption.set(number, Constant.udp, Constant.udpGRO, 1)
        SocketOption.growBuffers(number, bytes: bufferBytes)
        guard bind(number, address, port: roceUDPPort, scope: scope) else {
            guard clinuxnet_errno() == EADDRINUSE else { throw SystemError.last("bind(\(address.addressText), 4791)") }
            return nil
        }
        return socket
    }

    /// The sending end of an address, on a port of RoCEv2's source range. It receives nothing.
    static func makeSender(
        _ address: GID, scope: UInt32, interface: Int, bufferBytes: Int
    ) throws(PacketIOError) -> FileDescriptor {
        let socket = try make(address)
        let number = socket.number
        if address.isIPv4Mapped {
            try SocketOption.require(
                number, Int32(IPPROTO_IP), IP_MTU_DISCOVER, Constant.pathMTUProbe, "IP_MTU_DISCOVER")
            SocketOption.set(number, Int32(IPPROTO_IP), IP_MULTICAST_TTL, 64)
            var request = ip_mreqn()
            request.imr_ifindex = Int32(interface)
            _ = unsafe setsockopt(
                number, Int32(IPPROTO_IP), IP_MULTICAST_IF, &request, UInt32(MemoryLayout<ip_mreqn>.size))
        } else {
            try SocketOption.require(
                number, Int32(IPPROTO_IPV6), IPV6_MTU_DISCOVER, Constant.pathMTUProbe, "IPV6_MTU_DISCOVER")
            SocketOption.set(number, Int32(IPPROTO_IPV6), IPV6_DONTFRAG, 1)
            SocketOption.set(number, Int32(IPPROTO_IPV6), IPV6_MULTICAST_HOPS, 64)
            SocketOption.set(number, Int32(IPPROTO_IPV6), IPV6_MULTICAST_IF, Int32(interface))
        }
        SocketOption.set(number, SOL_SOCKET, SO_BROADCAST, 1)
        SocketOption.growBuffers(number, bytes: bufferBytes)
        refuseAll(number)

        var generator = SystemRandomNumberGenerator()
        for _ in 0..<64 {
            if bind(number, address, port: UInt16.random(in: 0xC000...0xFFFF, using: &generator), scope: scope) {
                return socket
            }
            guard clinuxnet_errno() == EADDRINUSE else { break }
        }
        throw SystemError.last("bind(\(address.addressText), a port of 0xC000...0xFFFF)")
    }

    private static func make(_ address: GID) throws(PacketIOError) -> FileDescriptor {
        if address.isIPv4Mapped {
            return try FileDescriptor(clinuxnet_udp_socket(AF_INET), call: "socket(AF_INET)")
        }
        let made = try FileDescriptor(clinuxnet_udp_socket(AF_INET6), call: "socket(AF_INET6)")
        try SocketOption.require(made.number, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1, "IPV6_V6ONLY")
        return made
    }

    private static func bind(_ descriptor: Int32, _ address: GID, port: UInt16, scope: UInt32) -> Bool {
        unsafe withUnsafeTemporaryAllocation(byteCount: SocketAddress.capacity, alignment: 8) { memory in
            let length = unsafe SocketAddress.write(address, port: port, scope: scope, to: memory.baseAddress!)
            return unsafe clinuxnet_bind(descriptor, memory.baseAddress!, length) == 0
        }
    }

    /// A socket filter that accepts no byte of any packet, so that what strangers send to a sending port takes no
    /// memory.
    private static func refuseAll(_ descriptor: Int32) {
        var refuse = sock_filter(code: UInt16(BPF_RET | BPF_K), jt: 0, jf: 0, k: 0)
        unsafe withUnsafeMutablePointer(to: &refuse) { instruction in
            var program = unsafe sock_fprog(len: 1, filter: instruction)
            _ = unsafe setsockopt(
                descriptor, SOL_SOCKET, clinuxnet_so_attach_filter, &program, UInt32(MemoryLayout<sock_fprog>.size))
        }
    }
}

/// Option numbers as `setsockopt` takes them.
enum Constant {
    static let udp = Int32(CLINUXNET_SOL_UDP.rawValue)
    static let udpNoCheck6Receive = Int32(CLINUXNET_UDP_NO_CHECK6_RX.rawValue)
    static let udpSegment = Int32(CLINUXNET_UDP_SEGMENT.rawValue)
    static let udpGRO = Int32(CLINUXNET_UDP_GRO.rawValue)
    static let credentials = Int32(CLINUXNET_SCM_CREDENTIALS.rawValue)
    static let pathMTUProbe = Int32(CLINUXNET_IP_PMTUDISC_PROBE.rawValue)
}
