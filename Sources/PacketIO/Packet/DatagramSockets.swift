// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// UDP sockets whose datagrams are shown as the frames that brought them, for a process without any privilege.
///
/// The kernel keeps the headers. They are made up: from the addresses, ports, time to live and type of service that it tells of, from
/// the interface's own address as the destination, and a source address of zeros.
@safe package struct DatagramSockets: ~Copyable {
    /// What a socket receives.
    package struct Port: Hashable, Sendable {
        /// The local address; `nil` for all of the family.
        package var address: GID?
        package var isIPv6: Bool
        package var number: UInt16

        package init(address: GID?, isIPv6: Bool, number: UInt16) {
            self.address = address
            self.isIPv6 = isIPv6
            self.number = number
        }
    }

    private struct Entry: ~Copyable {
        let port: Port
        let socket: FileDescriptor
    }

    /// Sockets of one interface at the most.
    package static let countMax = 64

    private let interface: NetworkInterface
    private let hardware: MACAddress
    private var messages = FrameMessages()
    /// Allocated once; `0..<count` are there.
    private let entries: UnsafeMutablePointer<Entry>
    private var count = 0
    private var turn = 0

    package init(interface: NetworkInterface) {
        self.interface = interface
        let bytes = interface.hardwareAddress
        hardware = MACAddress(truncating: bytes.reduce(0) { $0 << 8 | UInt64($1) })
        unsafe entries = .allocate(capacity: Self.countMax)
    }

    deinit {
        unsafe entries.deinitialize(count: count)
        unsafe entries.deallocate()
    }

    /// Readable when a datagram is there.
    package var descriptors: [Int32] { (0..<count).map { unsafe entries[$0].socket.number } }

    /// Opens a socket for a port, unless it is open.
    /// - Throws: EADDRINUSE where another socket has the port.
    package mutating func open(_ port: Port) throws(PacketIOError) {
        for index in 0..<count where unsafe entries[index].port == port { return }
        guard count < Self.countMax else { throw .limit(what: "UDP sockets for flows", maximum: Self.countMax) }
        let family = port.isIPv6 ? AF_INET6 : AF_INET
        let socket = try FileDescriptor(
            clinuxnet_udp_socket(family), call: "socket(UDP)")
        let number = socket.number
        if port.isIPv6 {
            let level = Int32(IPPROTO_IPV6)
            try SocketOption.require(number, level, IPV6_V6ONLY, 1, "IPV6_V6ONLY")
            try SocketOption.require(number, level, IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")
            SocketOption.set(number, level, IPV6_RECVHOPLIMIT, 1)
            SocketOption.set(number, level, IPV6_RECVTCLASS, 1)
        } else {
            let level = Int32(IPPROTO_IP)
            try SocketOption.require(number, level, IP_PKTINFO, 1, "IP_PKTINFO")
            SocketOption.set(number, level, IP_RECVTTL, 1)
            SocketOption.set(number, level, IP_RECVTOS, 1)
        }
        TimeNote.ask(number)
        SocketOption.growBuffers(number, bytes: 4 << 20)
        // Refused before Linux 5.7: then another interface's datagrams for the same address come, too.
        let name = Array(interface.name.utf8)
        _ = unsafe setsockopt(
            number, SOL_SOCKET, Int32(CLINUXNET_SO_BINDTODEVICE.rawValue), name, UInt32(name.count))
        // Beside a socket of ours for the same port, of which the kernel takes the one with the address. Not beside others'.
        // For this moment alone: others could bind it, too.
        let kin = (0..<count).filter { unsafe entries[$0].port.number == port.number }
            .map { unsafe entries[$0].socket.number }
        if !kin.isEmpty { for socket in kin + [number] { SocketOption.set(socket, SOL_SOCKET, SO_REUSEADDR, 1) } }
        defer { for socket in kin + [number] { SocketOption.set(socket, SOL_SOCKET, SO_REUSEADDR, 0) } }
        let any = port.isIPv6 ? GID(high: 0, low: 0) : GID(ipv4: 0)
        let address = port.address ?? any
        let isBound = unsafe withUnsafeTemporaryAllocation(byteCount: SocketAddress.capacity, alignment: 8) { memory in
            let scope = address.isLinkLocal ? UInt32(interface.index) : 0
            let length = unsafe SocketAddress.write(
                address, port: port.number, scope: scope, to: memory.baseAddress!)
            return unsafe clinuxnet_bind(number, memory.baseAddress!, length) == 0
        }
        guard isBound else { throw SystemError.last("bind(UDP port \(port.number))") }
        unsafe (entries + count).initialize(to: Entry(port: port, socket: socket))
        count += 1
    }

    /// Closes the socket of a port.
    package mutating func close(_ port: Port) {
        for index in 0..<count where unsafe entries[index].port == port {
            unsafe (entries + index).deinitialize(count: 1)
            unsafe (entries + index).moveInitialize(from: entries + index + 1, count: count - index - 1)
            count -= 1
            return
        }
    }

    /// Takes datagrams of one socket, without blocking, as frames that are valid until the next call. Sockets take turns.
    package mutating func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        for _ in 0..<count {
            turn = turn + 1 < count ? turn + 1 : 0
            let port = unsafe entries[turn].port
            let received = unsafe messages.receive(from: entries[turn].socket.number, limit: limit)
            guard received > 0 else { continue }
            for index in 0..<received { unsafe (frames + index).initialize(to: frame(index, port)) }
            return received
        }
        return 0
    }

    private func frame(_ index: Int, _ port: Port) -> ReceivedFrame {
        let payload = unsafe messages.payload(index)
        let name = unsafe messages.name(index)
        guard let base = payload.baseAddress, let nameBase = name.baseAddress,
            let (source, sourcePort) = unsafe SocketAddress.read(nameBase, length: UInt32(name.count))
        else { return unsafe ReceivedFrame(UnsafeRawBufferPointer(start: nil, count: 0)) }
        var destination = port.address ?? (port.isIPv6 ? GID(high: 0, low: 0) : GID(ipv4: 0))
        var hopLimit: UInt8 = 64
        var trafficClass: UInt8 = 0
        var timestamp: UInt64 = 0
        unsafe messages.forEachNote(index) { level, type, note in
            switch (level, type) {
            case (Int32(IPPROTO_IP), IP_PKTINFO):
                // struct in_pktinfo: the header's destination at 8.
                destination = unsafe GID(
                    ipv4: UInt32(bigEndian: note.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
            case (Int32(IPPROTO_IPV6), IPV6_PKTINFO):
                destination = unsafe GID(
                    high: UInt64(bigEndian: note.loadUnaligned(as: UInt64.self)),
                    low: UInt64(bigEndian: note.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
            case (Int32(IPPROTO_IP), IP_TTL), (Int32(IPPROTO_IPV6), IPV6_HOPLIMIT):
                hopLimit = unsafe UInt8(truncatingIfNeeded: note.loadUnaligned(as: Int32.self))
            case (Int32(IPPROTO_IP), IP_TOS), (Int32(IPPROTO_IPV6), IPV6_TCLASS):
                trafficClass = unsafe note.load(as: UInt8.self)
            case (SOL_SOCKET, TimeNote.type): timestamp = unsafe TimeNote.read(note)
            default: break
            }
        }
        let ipByteCount = port.isIPv6 ? IPv6Header.byteCount : IPv4Header.byteCount
        let headerByteCount = 14 + ipByteCount + UDPHeader.byteCount
        let start = unsafe base - headerByteCount
        // In the room in front of the message, which is longer than any of these headers.
        var bytes = unsafe MutableRawSpan(_unsafeStart: start, byteCount: headerByteCount + payload.count)
        EthernetHeader(
            destination: hardware, source: MACAddress(truncating: 0), etherType: port.isIPv6 ? .ipv6 : .ipv4
        ).emit(into: &bytes)
        let udpByteCount = UDPHeader.byteCount + payload.count
        if port.isIPv6 {
            var header = IPv6Header(
                source: source, destination: destination, payloadByteCount: UInt16(truncatingIfNeeded: udpByteCount))
            header.hopLimit = hopLimit
            header.trafficClass = trafficClass
            header.emit(into: &bytes, at: 14)
        } else {
            var header = IPv4Header(
                source: source.ipv4, destination: destination.ipv4,
                totalByteCount: UInt16(truncatingIfNeeded: ipByteCount + udpByteCount))
            header.timeToLive = hopLimit
            header.typeOfService = trafficClass
            header.emit(into: &bytes, at: 14)
        }
        var header = UDPHeader(sourcePort: sourcePort, payloadByteCount: payload.count)
        header.destinationPort = port.number
        header.emit(into: &bytes, at: 14 + ipByteCount)
        let frame = unsafe UnsafeMutableRawBufferPointer(start: start, count: headerByteCount + payload.count)
        unsafe Self.fillInChecksum(frame, ipByteCount: ipByteCount, udpByteCount: udpByteCount)
        var received = unsafe ReceivedFrame(UnsafeRawBufferPointer(frame))
        received.timestamp = timestamp
        // The kernel dropped those that were wrong.
        received.checksum = .right
        return received
    }

    /// The pseudo-header is the addresses, which stand at the end of either IP header, the protocol and the length.
    private static func fillInChecksum(
        _ frame: UnsafeMutableRawBufferPointer, ipByteCount: Int, udpByteCount: Int
    ) {
        let udp = 14 + ipByteCount
        let addressBytes = ipByteCount == IPv6Header.byteCount ? 32 : 8
        let pseudo = unsafe InternetChecksum.sum(
            UnsafeRawBufferPointer(rebasing: frame[udp - addressBytes..<udp]))
        let rest = UInt64(UInt16(17).bigEndian) &+ UInt64(UInt16(truncatingIfNeeded: udpByteCount).bigEndian)
        unsafe frame.storeBytes(of: InternetChecksum.folded(pseudo &+ rest), toByteOffset: udp + 6, as: UInt16.self)
        _ = unsafe InternetChecksum.complete(frame, from: udp, at: 6)
    }
}
