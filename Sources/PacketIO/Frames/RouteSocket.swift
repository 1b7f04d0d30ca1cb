// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// Asks the kernel which way an address is reached (rtnetlink): over which interface, and to which Ethernet address.
///
/// Requests are answered within the call; nothing waits. The layouts are those of `linux/netlink.h`, `rtnetlink.h` and
/// `neighbour.h`, all in the machine's byte order but for addresses.
@safe struct RouteSocket: ~Copyable {
    /// Six bytes in the low end of a word, the first byte lowest, as they lie in a frame on a little-endian machine.
    typealias HardwareAddress = UInt64

    private enum Kind {
        static let error: UInt16 = 2
        static let newRoute: UInt16 = 24
        static let getRoute: UInt16 = 26
        static let newNeighbour: UInt16 = 28
        static let getNeighbour: UInt16 = 30
    }

    private static let bufferBytes = 4096
    /// NUD_REACHABLE, STALE, DELAY, PROBE and PERMANENT: states in which the kernel itself sends to the address.
    private static let usableStates: UInt16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80
    /// RTN_UNICAST.
    private static let unicast: UInt8 = 1

    private let socket: FileDescriptor
    /// For one request or answer. Owned by the socket.
    private let buffer: UnsafeMutableRawPointer

    init() throws(PacketIOError) {
        socket = try FileDescriptor(
            CLinuxNet.socket(AF_NETLINK, clinuxnet_sock_raw, 0), call: "socket(AF_NETLINK)")
        unsafe buffer = .allocate(byteCount: Self.bufferBytes, alignment: 8)
    }

    deinit { unsafe buffer.deallocate() }

    /// The Ethernet address of a neighbour that is reached directly over the interface; `nil` where the kernel knows none
    /// now, or sends to the address by a gateway or over another interface.
    func neighbour(_ destination: GID, from source: GID, interface: Int) -> HardwareAddress? {
        guard isDirect(destination, from: source, interface: interface) else { return nil }
        // struct ndmsg
        var message = unsafe Request(buffer, kind: Kind.getNeighbour, family: Self.family(destination), bodyBytes: 12)
        message.setBody(UInt32(interface), at: 4)
        message.addAddress(1, destination)  // NDA_DST
        guard let answer = exchange(message, expecting: Kind.newNeighbour, bodyBytes: 12),
            answer.body(UInt16.self, at: 8) & Self.usableStates != 0
        else { return nil }
        return answer.hardwareAddress(2)  // NDA_LLADDR
    }

    private func isDirect(_ destination: GID, from source: GID, interface: Int) -> Bool {
        // struct rtmsg
        var message = unsafe Request(buffer, kind: Kind.getRoute, family: Self.family(destination), bodyBytes: 12)
        let bits: UInt8 = destination.isIPv4Mapped ? 32 : 128
        message.setBody(bits, at: 1)
        message.setBody(bits, at: 2)
        message.addAddress(1, destination)  // RTA_DST
        message.addAddress(2, source)  // RTA_SRC
        if destination.isLinkLocal { message.addWord(4, UInt32(interface)) }  // RTA_OIF
        guard let answer = exchange(message, expecting: Kind.newRoute, bodyBytes: 12) else { return false }
        return answer.body(UInt8.self, at: 7) == Self.unicast && answer.word(4) == UInt32(interface)
            && !answer.has(5) && !answer.has(18)  // RTA_GATEWAY, RTA_VIA
    }

    private static func family(_ gid: GID) -> UInt8 { UInt8(gid.isIPv4Mapped ? AF_INET : AF_INET6) }

    private func exchange(_ request: Request, expecting kind: UInt16, bodyBytes: Int) -> Answer? {
        let sent = unsafe send(socket.number, buffer, request.byteCount, clinuxnet_message_dontwait)
        guard sent == request.byteCount else { return nil }
        let count = unsafe recv(socket.number, buffer, Self.bufferBytes, clinuxnet_message_dontwait)
        guard count >= 16 + bodyBytes, unsafe buffer.load(fromByteOffset: 4, as: UInt16.self) == kind else {
            return nil
        }
        let length = min(count, Int(unsafe buffer.load(as: UInt32.self)))
        return unsafe Answer(buffer, byteCount: length, bodyBytes: bodyBytes)
    }
}

/// A netlink request being written: header, body, attributes.
@safe private struct Request {
    private let memory: UnsafeMutableRawPointer
    private(set) var byteCount: Int

    init(_ memory: UnsafeMutableRawPointer, kind: UInt16, family: UInt8, bodyBytes: Int) {
        unsafe self.memory = memory
        byteCount = 16 + bodyBytes
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: 128)
        unsafe memory.storeBytes(of: UInt32(byteCount), as: UInt32.self)
        unsafe memory.storeBytes(of: kind, toByteOffset: 4, as: UInt16.self)
        unsafe memory.storeBytes(of: 1, toByteOffset: 6, as: UInt16.self)  // NLM_F_REQUEST
        setBody(family, at: 0)
    }

    func setBody<Value: BitwiseCopyable>(_ value: Value, at offset: Int) {
        unsafe memory.storeBytes(of: value, toByteOffset: 16 + offset, as: Value.self)
    }

    mutating func addWord(_ type: UInt16, _ value: UInt32) {
        header(type, bytes: 4)
        unsafe memory.storeBytes(of: value, toByteOffset: byteCount + 4, as: UInt32.self)
        close(bytes: 4)
    }

    mutating func addAddress(_ type: UInt16, _ gid: GID) {
        if gid.isIPv4Mapped {
            addWord(type, gid.ipv4.bigEndian)
            return
        }
        header(type, bytes: 16)
        unsafe memory.storeBytes(of: gid.high.bigEndian, toByteOffset: byteCount + 4, as: UInt64.self)
        unsafe memory.storeBytes(of: gid.low.bigEndian, toByteOffset: byteCount + 12, as: UInt64.self)
        close(bytes: 16)
    }

    private func header(_ type: UInt16, bytes: Int) {
        unsafe memory.storeBytes(of: UInt16(4 + bytes), toByteOffset: byteCount, as: UInt16.self)
        unsafe memory.storeBytes(of: type, toByteOffset: byteCount + 2, as: UInt16.self)
    }

    private mutating func close(bytes: Int) {
        byteCount += 4 + bytes
        unsafe memory.storeBytes(of: UInt32(byteCount), as: UInt32.self)
    }
}

/// A netlink message as it came, valid until the next request.
@safe private struct Answer {
    private let memory: UnsafeMutableRawPointer
    private let byteCount: Int
    private let attributes: Int

    init(_ memory: UnsafeMutableRawPointer, byteCount: Int, bodyBytes: Int) {
        unsafe self.memory = memory
        self.byteCount = byteCount
        attributes = 16 + bodyBytes
    }

    func body<Value: BitwiseCopyable>(_: Value.Type, at offset: Int) -> Value {
        unsafe memory.loadUnaligned(fromByteOffset: 16 + offset, as: Value.self)
    }

    func has(_ type: UInt16) -> Bool { find(type, bytes: 0) != nil }

    func word(_ type: UInt16) -> UInt32? {
        find(type, bytes: 4).map { unsafe memory.loadUnaligned(fromByteOffset: $0, as: UInt32.self) }
    }

    func hardwareAddress(_ type: UInt16) -> UInt64? {
        find(type, bytes: 6).map { place in
            let low = unsafe memory.loadUnaligned(fromByteOffset: place, as: UInt32.self)
            let high = unsafe memory.loadUnaligned(fromByteOffset: place + 4, as: UInt16.self)
            return UInt64(low) | UInt64(high) << 32
        }
    }

    /// Where the payload of an attribute of at least `bytes` is.
    private func find(_ type: UInt16, bytes: Int) -> Int? {
        var offset = attributes
        while offset + 4 <= byteCount {
            let length = Int(unsafe memory.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
            let kind = unsafe memory.loadUnaligned(fromByteOffset: offset + 2, as: UInt16.self) & 0x3FFF
            guard length >= 4, offset + length <= byteCount else { return nil }
            if kind == type { return length - 4 >= bytes ? offset + 4 : nil }
            offset += (length + 3) & ~3
        }
        return nil
    }
}
