// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import SoftProvider
import Synchronization
import VerbsABI

/// Sockets over RDMA: one `rsocket`, of a stream or of datagrams, from `rsocket()` to `rclose()`.
///
/// Its number is the descriptor of its event channel. Everything it has is guarded by its lock, which nobody holds while
/// waiting: who waits sleeps in `poll` on the descriptors of the socket and on a bell of its own, which others ring when they
/// took an event that it may have waited for.
@safe final class RSocket: @unchecked Sendable {
    // Unchecked because of what the lock guards: everything below that changes.
    enum Phase {
        /// Bound or not.
        case idle
        case listening(RSocketListener)
        /// Until the event that is waited for.
        case connecting
        case connected(ByteStream)
        /// A connection that was not made, and why not.
        case failed
        /// From the beginning, for datagrams.
        case datagrams(DatagramEnd)
        case closed
    }

    let number: Int32
    let family: Int32
    let path: any ConnectionPath
    let channel: UnsafeMutablePointer<rdma_event_channel>
    let identifier: UnsafeMutablePointer<rdma_cm_id>
    private let lock = Mutex(())

    // Guarded by the lock
    var phase = Phase.idle
    var options = RSocketOptions()
    var sizes = StreamSizes()
    /// What a connection that was being made has of its stream.
    var forming: ByteStream?
    var pendingError: Int32 = 0
    private var bells: [Int32] = []

    /// A socket of an identifier, which it owns from here on.
    init(
        _ identifier: UnsafeMutablePointer<rdma_cm_id>, on channel: UnsafeMutablePointer<rdma_event_channel>,
        family: Int32, _ path: any ConnectionPath
    ) {
        unsafe self.identifier = unsafe identifier
        unsafe self.channel = unsafe channel
        self.family = family
        self.path = path
        number = unsafe channel.pointee.fd
        _ = fcntl(number, F_SETFL, O_NONBLOCK)
        _ = fcntl(number, F_SETFD, FD_CLOEXEC)
    }

    convenience init(family: Int32, isOfDatagrams: Bool) throws(ProviderError) {
        let path = try SoftProvider.shared.connections()
        let channel = unsafe try path.makeEventChannel()
        do throws(ProviderError) {
            let end = isOfDatagrams ? unsafe try DatagramEnd(family: family, path, channel) : nil
            let identifier = unsafe try path.makeIdentifier(
                on: channel, context: nil, portSpace: isOfDatagrams ? .RDMA_PS_UDP : .RDMA_PS_TCP)
            unsafe self.init(identifier, on: channel, family: family, path)
            if let end { phase = .datagrams(end) }
        } catch {
            unsafe path.destroy(channel)
            throw error
        }
    }

    deinit {
        // The queue pair goes before its identifier.
        phase = .closed
        forming = nil
        try? unsafe path.destroy(identifier)
        unsafe path.destroy(channel)
    }

    func locked<Result: Sendable>(_ body: () -> Result) -> Result { lock.withLock { _ in body() } }

    /// Whether nobody is at work with it for long: whoever calls `exit` from a signal's handler may have been when the signal came, and
    /// would wait for itself.
    var isFree: Bool {
        for _ in 0..<100 {
            if lock.withLockIfAvailable({ _ in true }) != nil { return true }
            usleep(1_000)
        }
        return false
    }

    var isNonblocking: Bool { options.statusFlags & O_NONBLOCK != 0 }

    // MARK: Progress, with the lock held

    /// Takes what completed.
    func progress() {
        switch phase {
        case .connected(let stream): if stream.progress() { ring() }
        case .datagrams(let end): if end.progress() { ring() }
        case .idle, .listening, .connecting, .failed, .closed: break
        }
    }

    /// Takes what the connection manager has to say, too, and asks a peer that said nothing for a while for a sign of life.
    func progressThoroughly() {
        if takeConnectionEvents() { ring() }
        progress()
        if case .datagrams(let end) = phase, end.takeGreetings() { ring() }
        guard case .connected(let stream) = phase else { return }
        if monotonicNanoseconds() - stream.lastSign > Self.silenceNanosecondsMax { stream.probe() }
    }

    static let silenceNanosecondsMax: UInt64 = 1_000_000_000
    /// How long one looks before one sleeps: less than a sleep costs.
    static let spinNanosecondsMax: UInt64 = 20_000

    // MARK: Waiting

    /// The descriptors that say that there is something to do.
    var descriptors: [Int32] {
        switch phase {
        case .connected(let stream): [number, stream.descriptor]
        case .connecting: [number]
        case .datagrams(let end): end.descriptors
        // The listener's thread reads its events.
        case .idle, .listening, .failed, .closed: []
        }
    }

    /// Makes the socket wake who waits with a bell.
    /// - Returns: whether something may have happened before, so that one has to look again before one sleeps.
    func enlist(_ bell: Int32) -> Bool {
        if !bells.contains(bell) { bells.append(bell) }
        return switch phase {
        case .connected(let stream): stream.arm()
        case .datagrams(let end): end.arm()
        case .idle, .listening, .connecting, .failed, .closed: false
        }
    }

    func dismiss(_ bell: Int32) { bells.removeAll { $0 == bell } }

    /// Wakes all who wait.
    func ring() {
        for bell in bells { Bells.ring(bell) }
    }

    /// Looks, with the lock held, until there is an answer, and sleeps in between.
    /// - Parameters:
    ///   - isBlocking: whether to sleep; asked with the lock held.
    ///   - deadline: of CLOCK_MONOTONIC in nanoseconds; the answer is `nil` then.
    /// - Returns: `nil` if there is none without waiting, or none in time.
    func wait<Answer: Sendable>(
        unless isNonblocking: Bool, until deadline: UInt64 = .max, _ look: () -> Answer?
    ) -> Answer? {
        let begun = monotonicNanoseconds()
        repeat {
            let quick = locked { () -> Answer? in
                progress()
                return look()
            }
            if let quick { return quick }
        } while !isNonblocking && monotonicNanoseconds() - begun < Self.spinNanosecondsMax
        var bell: Int32?
        defer {
            if let bell {
                locked { dismiss(bell) }
                Bells.giveBack(bell)
            }
        }
        while true {
            let (answer, mayBeMore, sources) = locked { () -> (Answer?, Bool, [Int32]) in
                progressThoroughly()
                if let answer = look() { return (answer, false, []) }
                guard let bell else { return (nil, false, []) }
                return (nil, enlist(bell), descriptors)
            }
            if let answer { return answer }
            let now = monotonicNanoseconds()
            if isNonblocking || now >= deadline { return nil }
            guard let bell else {
                bell = Bells.take()
                // Without a descriptor to sleep on there is no waiting.
                if bell == nil { return nil }
                continue
            }
            if mayBeMore { continue }
            var waiting = (sources + [bell]).map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            let limit = min(Self.silenceNanosecondsMax, deadline - now)
            _ = unsafe poll(&waiting, nfds_t(waiting.count), Int32((limit + 999_999) / 1_000_000))
            Bells.silence(bell)
        }
    }
}

/// Descriptors to wake sleepers by; kept for the next when one has slept, so there are as many as ever slept at once.
enum Bells {
    private static let free = Mutex<[Int32]>([])
    private static let all = Mutex<[Int32: Bell]>([:])

    private final class Bell: Sendable {
        let event: EventDescriptor
        init() throws(PacketIOError) { event = try EventDescriptor() }
    }

    static func take() -> Int32? {
        if let known = free.withLock({ $0.popLast() }) { return known }
        guard let made = try? Bell() else { return nil }
        all.withLock { $0[made.event.number] = made }
        return made.event.number
    }

    static func giveBack(_ number: Int32) {
        silence(number)
        free.withLock { $0.append(number) }
    }

    static func ring(_ number: Int32) { all.withLock { $0[number] }?.event.signal() }

    static func silence(_ number: Int32) { all.withLock { $0[number] }?.event.takeIfAny() }
}

/// The rsockets of this process by their numbers.
enum RSockets {
    private static let all = Mutex<[Int32: RSocket]>([:])

    /// A program that ends without closing its sockets has them closed, as the kernel does for its own.
    private static let registration: Void = {
        atexit {
            let open = RSockets.all.withLockIfAvailable { Array($0.values) } ?? []
            guard open.allSatisfy(\.isFree) else { return }
            for socket in open { socket.close() }
        }
    }()

    static func add(_ socket: RSocket) {
        all.withLock { $0[socket.number] = socket }
    }

    /// To be called when a device is open: what is registered later at exit runs earlier.
    static func closeAtExit() { _ = registration }

    static func find(_ number: Int32) -> RSocket? { all.withLock { $0[number] } }

    static func remove(_ number: Int32) -> RSocket? { all.withLock { $0.removeValue(forKey: number) } }
}
