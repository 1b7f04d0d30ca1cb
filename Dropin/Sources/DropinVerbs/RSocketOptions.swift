// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

/// What a program sets on an rsocket beside the sizes of its stream. Connections that are accepted begin with what their
/// listener has, its status flags too, as with librdmacm.
struct RSocketOptions {
    /// Of F_SETFL.
    var statusFlags: Int32 = 0
    /// Of F_SETFD.
    var descriptorFlags: Int32 = 0
    /// Options that are on or off, or a number, and change nothing here: they are told as they were set.
    var values: [RSocketOption: Int32] = [:]
    var lingers = true
}

/// An option by its level and name.
struct RSocketOption: Hashable {
    let level: Int32
    let name: Int32

    init(_ level: Int32, _ name: Int32) {
        self.level = level
        self.name = name
    }

    /// SOL_RDMA of rdma/rsocket.h.
    static let rdma: Int32 = 0x10000
    static let sendQueue = RSocketOption(rdma, 0)
    static let receiveQueue = RSocketOption(rdma, 1)
    static let inlineBytes = RSocketOption(rdma, 2)
    static let offsetMap = RSocketOption(rdma, 3)
    static let route = RSocketOption(rdma, 4)

    static let sendBuffer = RSocketOption(SOL_SOCKET, SO_SNDBUF)
    static let receiveBuffer = RSocketOption(SOL_SOCKET, SO_RCVBUF)
    static let linger = RSocketOption(SOL_SOCKET, SO_LINGER)
    static let error = RSocketOption(SOL_SOCKET, SO_ERROR)
    static let reuseAddress = RSocketOption(SOL_SOCKET, SO_REUSEADDR)
    static let typeOfService = RSocketOption(tcpIP, IP_TOS)
    static let information = RSocketOption(tcp, TCP_INFO)
    static let segment = RSocketOption(tcp, TCP_MAXSEG)

    private static let tcpIP = Int32(IPPROTO_IP)
    private static let tcp = Int32(IPPROTO_TCP)
    private static let tcpIPv6 = Int32(IPPROTO_IPV6)

    /// Taken, remembered, and of no effect: nothing is held back to be sent together, a broken connection is noticed while
    /// somebody waits, and each socket has one family.
    static let remembered: Set<RSocketOption> = [
        RSocketOption(SOL_SOCKET, SO_KEEPALIVE), RSocketOption(SOL_SOCKET, SO_OOBINLINE),
        RSocketOption(SOL_SOCKET, SO_BROADCAST), RSocketOption(SOL_SOCKET, SO_RCVLOWAT), reuseAddress,
        RSocketOption(tcp, TCP_NODELAY), RSocketOption(tcp, TCP_KEEPCNT), RSocketOption(tcp, TCP_KEEPINTVL),
        RSocketOption(tcp, TCP_KEEPIDLE), segment, RSocketOption(tcpIPv6, IPV6_V6ONLY), typeOfService,
    ]
}

extension RSocket {
    /// Sets an option whose value is a number.
    /// - Returns: 0, or an `errno`.
    func set(_ option: RSocketOption, to value: Int32) -> Int32 {
        let count = Int(value)
        let queue = min(max(count, StreamSizes.queueRange.lowerBound), StreamSizes.queueRange.upperBound)
        let buffer = min(max(2 * count, StreamSizes.bufferRange.lowerBound), StreamSizes.bufferRange.upperBound)
        if option.level == RSocketOption.rdma {
            // The queues are made by now.
            switch phase {
            case .idle, .listening, .datagrams: break
            default: return EINVAL
            }
        }
        switch option {
        case .sendQueue: sizes.sends = queue
        case .receiveQueue: sizes.receives = queue
        case .inlineBytes: sizes.inlineBytes = min(max(count, 0), 1_024)
        case .offsetMap:
            sizes.offsetMapCount = StreamGreeting.count(ofScale: StreamGreeting.scale(ofCount: count))
        // Of a connection that is made the buffers stay as they are, which is no error.
        case .sendBuffer: if !hasStream { sizes.sendBytes = buffer }
        case .receiveBuffer: if !hasStream { sizes.receiveBytes = buffer }
        case .reuseAddress, RSocketOption(SOL_SOCKET, SO_BROADCAST):
            options.values[option] = value
            if case .datagrams(let end) = phase { return end.set(option, to: value) }
            guard option == .reuseAddress else { return 0 }
            return softCode { () throws(ProviderError) in try setIdentifierOption(1, value) }
        case .typeOfService:
            options.values[option] = value
            return softCode { () throws(ProviderError) in try setIdentifierOption(0, UInt8(truncatingIfNeeded: value)) }
        case _ where RSocketOption.remembered.contains(option): options.values[option] = value
        default: return ENOPROTOOPT
        }
        // Of queue pairs that are made from now on.
        if case .datagrams(let end) = phase { end.sizes = sizes }
        return 0
    }

    private var isOfDatagrams: Bool {
        if case .datagrams = phase { return true }
        return false
    }

    private var hasStream: Bool {
        if case .connected = phase { return true }
        return forming != nil
    }

    private func setIdentifierOption<Value: BitwiseCopyable>(_ name: Int32, _ value: Value) throws(ProviderError) {
        let memory = UnsafeMutablePointer<Value>.allocate(capacity: 1)
        defer { unsafe memory.deallocate() }
        unsafe memory.initialize(to: value)
        try unsafe path.setOption(
            identifier, level: 0, name: name, value: memory, length: MemoryLayout<Value>.size)
    }

    /// An option whose value is a number; `nil` for one that is not known.
    func get(_ option: RSocketOption) -> Int32? {
        switch option {
        case .sendQueue: return Int32(sizes.sends)
        case .receiveQueue: return Int32(sizes.receives)
        case .inlineBytes: return Int32(sizes.inlineBytes)
        case .offsetMap: return Int32(sizes.offsetMapCount)
        case .sendBuffer: return Int32(sizes.sendBytes)
        case .receiveBuffer: return Int32(sizes.receiveBytes)
        case .error:
            if case .connected(let stream) = phase { return stream.takeFailure() }
            defer { pendingError = 0 }
            return pendingError
        case RSocketOption(SOL_SOCKET, SO_TYPE):
            return isOfDatagrams ? Int32(SOCK_DGRAM.rawValue) : Int32(SOCK_STREAM.rawValue)
        case RSocketOption(SOL_SOCKET, SO_DOMAIN): return family
        case RSocketOption(SOL_SOCKET, SO_PROTOCOL): return Int32(isOfDatagrams ? IPPROTO_UDP : IPPROTO_TCP)
        case RSocketOption(SOL_SOCKET, SO_ACCEPTCONN):
            if case .listening = phase { return 1 }
            return 0
        // The largest that a packet carries, if nobody asked for another.
        case .segment: return options.values[option] ?? 4_096
        case _ where RSocketOption.remembered.contains(option): return options.values[option] ?? 0
        default: return nil
        }
    }
}

/// `rsetsockopt`
@c @implementation
public func rsetsockopt(
    _ number: Int32, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer!, _ length: socklen_t
) -> Int32 {
    withRSocket(number) { socket in
        let option = RSocketOption(level, name)
        if option == .linger {
            guard Int(length) >= MemoryLayout<linger>.size else { return EINVAL }
            let isOn = unsafe value.loadUnaligned(as: linger.self).l_onoff != 0
            return socket.locked {
                socket.options.lingers = isOn
                return 0
            }
        }
        if option == .route {
            return SoftProvider.report(
                ProviderError("rsetsockopt", code: EOPNOTSUPP, detail: "RDMA_ROUTE: the kernel's routing knows the way")
            )
        }
        guard length >= 4 else { return EINVAL }
        let number = unsafe value.loadUnaligned(as: Int32.self)
        return socket.locked { socket.set(option, to: number) }
    }
}

/// `rgetsockopt`
@c @implementation
public func rgetsockopt(
    _ number: Int32, _ level: Int32, _ name: Int32, _ value: UnsafeMutableRawPointer!,
    _ length: UnsafeMutablePointer<socklen_t>!
) -> Int32 {
    withRSocket(number) { socket in
        let room = Int(unsafe length.pointee)
        let option = RSocketOption(level, name)
        if option == .linger {
            guard room >= MemoryLayout<linger>.size else { return EINVAL }
            let isOn = socket.locked { socket.options.lingers }
            unsafe value.storeBytes(of: linger(l_onoff: isOn ? 1 : 0, l_linger: 0), as: linger.self)
            unsafe length.pointee = socklen_t(MemoryLayout<linger>.size)
            return 0
        }
        if option == .information {
            // The state alone, which stands first: TCP_ESTABLISHED is 1, TCP_CLOSE 7.
            let isConnected = socket.locked { if case .connected = socket.phase { true } else { false } }
            unsafe UnsafeMutableRawBufferPointer(start: value, count: room).initializeMemory(
                as: UInt8.self, repeating: 0)
            if room > 0 { unsafe value.storeBytes(of: isConnected ? 1 : 7, as: UInt8.self) }
            return 0
        }
        guard let number = socket.locked({ socket.get(option) }) else { return ENOPROTOOPT }
        guard room >= 4 else { return EINVAL }
        unsafe value.storeBytes(of: number, as: Int32.self)
        unsafe length.pointee = 4
        return 0
    }
}

/// `rfcntl`, which takes one argument at most; the C function is variadic, and finds it where an argument that is named has it.
@c(rfcntl)
public func rfcntl(_ number: Int32, _ command: Int32, _ argument: Int) -> Int32 {
    var result: Int32 = 0
    let status = withRSocket(number) { socket in
        socket.locked {
            switch command {
            case F_GETFL: result = socket.options.statusFlags | O_RDWR
            case F_SETFL: socket.options.statusFlags = Int32(truncatingIfNeeded: argument) & ~O_ACCMODE
            case F_GETFD: result = socket.options.descriptorFlags
            case F_SETFD: socket.options.descriptorFlags = Int32(truncatingIfNeeded: argument)
            default: return EINVAL
            }
            return 0
        }
    }
    return status == 0 ? result : status
}
