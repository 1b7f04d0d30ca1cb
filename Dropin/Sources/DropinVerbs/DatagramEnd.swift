// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import CLinuxNet
import Glibc
import SoftProvider
import VerbsABI

/// The state of a datagram rsocket: a UDP socket, a queue pair at each address of ours that it uses, and what is known of those it
/// sends to.
///
/// ```
///  sender                                     receiver
///  the first datagrams ──UDP, our number──►   read from UDP; the sender's number is known
///  the receiver's number ◄──UDP, control──    answered
///  all others ──────queue pair─────────────►  read from its queue pair
/// ```
/// Both are read when the program looks, by ``progress()`` and ``takeGreetings()``. Its owner calls it with a lock held.
@safe final class DatagramEnd {
    /// Whom it sends to.
    @safe private final class Destination {
        let pair: DatagramQueuePair
        // Made by the queue pair, destroyed with this.
        let handle: UnsafeMutablePointer<ibv_ah>
        /// The peer's; `nil` until it is heard of.
        var queuePair: UInt32?

        init(_ pair: DatagramQueuePair, _ handle: UnsafeMutablePointer<ibv_ah>) {
            self.pair = pair
            unsafe self.handle = unsafe handle
        }

        deinit { _ = unsafe ibv_destroy_ah(handle) }
    }

    /// A datagram that was not read yet.
    private struct Arrival {
        enum Place {
            case slot(DatagramQueuePair, Int, offset: Int)
            case bytes([UInt8])
        }

        let sender: DatagramAddress
        let count: Int
        let place: Place
    }

    /// What became of a datagram that is to be sent.
    enum Outcome {
        case sent
        case noRoom
        case failed(Int32)
    }

    /// What is taken in one go: a flood of what nobody wants holds nobody up for longer.
    private static let roundCountMax = 64
    /// Of UDP, as ours and as the socket's: the kernel keeps what is beyond.
    private static let greetingCountMax = 64
    /// Beyond, what is known of others is forgotten: they are asked again.
    private static let destinationCountMax = 16_384

    private let udp: Int32
    private let family: Int32
    private let path: any ConnectionPath
    /// Where the events of identifiers come.
    private let channel: UnsafeMutablePointer<rdma_event_channel>
    var sizes = StreamSizes()
    private var pairs: [DatagramQueuePair] = []
    private var destinations: [DatagramAddress: Destination] = [:]
    /// Whom `rconnect` named.
    private(set) var peer: DatagramAddress?
    private var arrivals: [Arrival] = []
    /// Those that were read already.
    private var arrivalsRead = 0
    private var greetingCount = 0
    private var rounds: UInt32 = 0

    init(
        family: Int32, _ path: any ConnectionPath, _ channel: UnsafeMutablePointer<rdma_event_channel>
    ) throws(ProviderError) {
        udp = clinuxnet_udp_socket(family)
        guard udp >= 0 else { throw ProviderError("rsocket", code: errno) }
        self.family = family
        self.path = path
        unsafe self.channel = unsafe channel
    }

    deinit { close(udp) }

    // MARK: Addresses; each is 0 or an `errno`

    func bind(_ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> Int32 {
        unsafe Glibc.bind(udp, address, length) == 0 ? 0 : errno
    }

    /// Names whom a datagram without an address goes to, and who alone is heard; AF_UNSPEC names nobody.
    ///
    /// The UDP socket is not told: it would lose its port when it is to hear others again.
    func connect(_ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> Int32 {
        if unsafe Int32(address.pointee.sa_family) == AF_UNSPEC {
            peer = nil
            return 0
        }
        guard let wanted = unsafe DatagramAddress(address, length), wanted.family == family else { return EAFNOSUPPORT }
        let code = softCode { () throws(ProviderError) in _ = try destination(wanted) }
        if code == 0 { peer = wanted }
        return code
    }

    /// Ours: of the UDP socket, and where it has none, of the queue pair to whom `rconnect` named.
    var localAddress: sockaddr_storage {
        if let peer, let known = destinations[peer], DatagramAddress(boundAddress)?.isWildcard ?? true {
            return known.pair.address.storage
        }
        return boundAddress
    }

    private var boundAddress: sockaddr_storage {
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        // Room for any address.
        _ = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
            unsafe getsockname(udp, UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: sockaddr.self), &size)
        }
        return storage
    }

    /// Of options that the UDP socket has to know.
    func set(_ option: RSocketOption, to value: Int32) -> Int32 {
        var value = value
        return unsafe setsockopt(udp, option.level, option.name, &value, 4) == 0 ? 0 : errno
    }

    // MARK: State

    var descriptors: [Int32] { [udp] + pairs.map(\.descriptor) }
    var hasArrival: Bool { arrivalsRead < arrivals.count }
    var canSend: Bool { pairs.allSatisfy(\.canSend) }
    var isDrained: Bool { pairs.allSatisfy(\.isDrained) }

    /// - Returns: whether something may have happened before.
    func arm() -> Bool { pairs.reduce(false) { $1.arm() || $0 } }

    // MARK: Progress

    /// Takes what completed.
    /// - Returns: whether anything did.
    func progress() -> Bool {
        // Who always finds a datagram at a queue pair must hear of new senders, too.
        rounds &+= 1
        var isAny = rounds & 63 == 0 && takeGreetings()
        for pair in pairs {
            for _ in 0..<Self.roundCountMax {
                guard let completion = pair.poll() else { break }
                isAny = true
                switch completion {
                case .received(let slot, let byteCount):
                    var offset = 0
                    let bytes = unsafe pair.received(slot, from: 0, count: byteCount)
                    let named = unsafe DatagramAddress(header: bytes, byteCount: &offset)
                    if let sender = named?.at(pair.address), isHeard(sender) {
                        arrivals.append(
                            Arrival(
                                sender: sender, count: byteCount - offset,
                                place: .slot(pair, slot, offset: offset)))
                    } else {
                        pair.postReceive(slot)
                    }
                // A datagram that cannot be sent is lost, as others are.
                case .sent, .failed: break
                }
            }
        }
        return isAny
    }

    private func isHeard(_ sender: DatagramAddress) -> Bool {
        sender.family == family && (peer == nil || sender == peer)
    }

    /// Takes what came by UDP, and answers it.
    /// - Returns: whether anything did.
    func takeGreetings() -> Bool {
        var isAny = false
        for _ in 0..<Self.roundCountMax {
            guard greetingCount < Self.greetingCountMax, let (sender, bytes) = nextGreeting() else { break }
            isAny = true
            let greeting = unsafe bytes.withUnsafeBytes { unsafe DatagramGreeting($0, family: family) }
            guard let greeting else { continue }
            // Where no device leads there, the sender goes on by UDP.
            let known = try? destination(sender)
            if let known {
                known.queuePair = greeting.queuePair
                if greeting.kind == .data { _ = unsafe sendGreeting(.control, nil, to: sender, known) }
            }
            guard greeting.kind == .data, isHeard(sender) else { continue }
            greetingCount += 1
            let data = Array(bytes[greeting.byteCount...])
            arrivals.append(Arrival(sender: sender, count: data.count, place: .bytes(data)))
        }
        return isAny
    }

    private func nextGreeting() -> (DatagramAddress, [UInt8])? {
        var storage = sockaddr_storage()
        var size = socklen_t(MemoryLayout<sockaddr_storage>.size)
        var sender: DatagramAddress?
        let room = DatagramQueuePair.datagramByteCountMax
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: room) { room, count in
            let done = unsafe withUnsafeMutablePointer(to: &storage) { pointer in
                let address = unsafe UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: sockaddr.self)
                let done = unsafe recvfrom(udp, room.baseAddress, room.count, Int32(MSG_DONTWAIT), address, &size)
                sender = unsafe done < 0 ? nil : DatagramAddress(address, size)
                return done
            }
            count = max(done, 0)
        }
        return sender.map { ($0, bytes) }
    }

    // MARK: Reading

    /// Copies the oldest datagram, as much of it as there is room for.
    /// - Returns: its length and its sender; `nil` where none came.
    func receive(
        isPeeking: Bool, _ copy: (UnsafeRawBufferPointer) -> Void
    ) -> (count: Int, sender: DatagramAddress)? {
        guard hasArrival else { return nil }
        let arrival = arrivals[arrivalsRead]
        switch arrival.place {
        case .bytes(let bytes):
            unsafe bytes.withUnsafeBytes { unsafe copy($0) }
            if !isPeeking { greetingCount -= 1 }
        case .slot(let pair, let slot, let offset):
            unsafe copy(pair.received(slot, from: offset, count: arrival.count))
            if !isPeeking { pair.postReceive(slot) }
        }
        if !isPeeking {
            arrivalsRead += 1
            if arrivalsRead == arrivals.count {
                arrivals.removeAll(keepingCapacity: true)
                arrivalsRead = 0
            } else if arrivalsRead >= 1_024 {
                arrivals.removeFirst(arrivalsRead)
                arrivalsRead = 0
            }
        }
        return (arrival.count, arrival.sender)
    }

    // MARK: Writing

    func send(_ bytes: UnsafeRawBufferPointer, to address: DatagramAddress) -> Outcome {
        guard bytes.count <= DatagramQueuePair.datagramByteCountMax - DatagramGreeting.byteCount(family) else {
            return .failed(EMSGSIZE)
        }
        guard address.family == family else { return .failed(EAFNOSUPPORT) }
        do throws(ProviderError) {
            let known = try destination(address)
            // The answer may be there by now.
            if known.queuePair == nil { _ = takeGreetings() }
            // UDP is cut into packets where a queue pair's datagram must be one.
            guard let queuePair = known.queuePair, bytes.count <= known.pair.dataByteCountMax else {
                return unsafe sendGreeting(.data, bytes, to: address, known)
            }
            guard known.pair.canSend else { return .noRoom }
            let code = unsafe known.pair.send(bytes, to: known.handle, queuePair: queuePair)
            return code == 0 ? .sent : .failed(code)
        } catch {
            return .failed(SoftProvider.report(error))
        }
    }

    private func sendGreeting(
        _ kind: DatagramGreeting.Kind, _ data: UnsafeRawBufferPointer?, to address: DatagramAddress,
        _ known: Destination
    ) -> Outcome {
        var bytes = DatagramGreeting.bytes(kind, queuePair: known.pair.number, from: known.pair.address)
        if let data = unsafe data { unsafe bytes.append(contentsOf: data) }
        let sent = unsafe address.withAddress { target, size in
            unsafe sendto(udp, bytes, bytes.count, Int32(MSG_DONTWAIT), target, size)
        }
        if sent >= 0 { return .sent }
        return errno == EAGAIN ? .noRoom : .failed(errno)
    }

    // MARK: Destinations

    private func destination(_ address: DatagramAddress) throws(ProviderError) -> Destination {
        if let known = destinations[address] { return known }
        if destinations.count >= Self.destinationCountMax { destinations = [:] }
        let identifier = unsafe try path.makeIdentifier(on: channel, context: nil, portSpace: .RDMA_PS_UDP)
        do throws(ProviderError) {
            try unsafe resolve(identifier, address)
            let pair = unsafe try pair(for: identifier)
            let known = unsafe Destination(pair, try pair.makeHandle(to: identifier))
            if unsafe !pair.isOf(identifier) { try? unsafe path.destroy(identifier) }
            destinations[address] = known
            return known
        } catch {
            if !pairs.contains(where: { unsafe $0.isOf(identifier) }) { try? unsafe path.destroy(identifier) }
            throw error
        }
    }

    private func resolve(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, _ address: DatagramAddress
    ) throws(ProviderError) {
        if let local = DatagramAddress(boundAddress), local.port == 0 {
            // As the kernel does for who sends before it is bound.
            let code = unsafe local.withAddress { unsafe bind($0, $1) }
            guard code == 0 else { throw ProviderError("rsendto", code: code) }
        }
        var source = DatagramAddress(boundAddress)
        source?.port = 0
        if source?.isWildcard ?? true { source = nil }
        var outcome: Result<Void, ProviderError> = .success(())
        func resolve(_ source: UnsafeMutablePointer<sockaddr>?) {
            unsafe address.withAddress { target, _ in
                do throws(ProviderError) {
                    try unsafe path.resolveAddress(
                        identifier, source: source, destination: target, timeoutMilliseconds: 2_000)
                } catch {
                    outcome = .failure(error)
                }
            }
        }
        if let source {
            unsafe source.withAddress { pointer, _ in unsafe resolve(pointer) }
        } else {
            resolve(nil)
        }
        // That it is resolved is known from the call.
        while unsafe ConnectionNews.next(on: channel, path) != nil {}
        try outcome.get()
    }

    /// The queue pair that an identifier would send from; if there is none, one that has the identifier from here on.
    private func pair(for identifier: UnsafeMutablePointer<rdma_cm_id>) throws(ProviderError) -> DatagramQueuePair {
        if let known = pairs.first(where: { unsafe $0.isSource(of: identifier) }) { return known }
        RSockets.closeAtExit()
        let port = DatagramAddress(boundAddress)?.port ?? 0
        let pair = unsafe try DatagramQueuePair(identifier, path, port: port, sizes: sizes)
        pairs.append(pair)
        return pair
    }
}
