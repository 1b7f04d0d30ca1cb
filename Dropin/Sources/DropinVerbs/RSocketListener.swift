// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import SoftProvider
import Synchronization
import VerbsABI

/// What makes connections of the requests to a listening rsocket while its program does something else: a thread, which reads
/// the events of the socket's channel. `raccept` takes the connections that are made.
@safe final class RSocketListener: @unchecked Sendable {
    // Unchecked because of what only the thread touches, and of the constants; the rest is behind a mutex.
    private weak var socket: RSocket?
    private let identifier: UnsafeMutablePointer<rdma_cm_id>
    private let channel: UnsafeMutablePointer<rdma_event_channel>
    private let path: any ConnectionPath
    private let family: Int32
    private let limit: Int
    private let waker: EventDescriptor
    private let shared = Mutex(Shared())
    private var thread = pthread_t()

    /// A request that is not answered yet.
    private struct Request {
        let identifier: UInt
        let greeting: StreamGreeting
    }

    /// A connection that was answered.
    private struct Connection: @unchecked Sendable {
        // Unchecked because of the stream: whoever took the connection out has it alone.
        let identifier: UInt
        let stream: ByteStream
        let options: RSocketOptions
        let sizes: StreamSizes
    }

    // Of the thread
    private var requests: [Request] = []
    /// Until the peer has seen the answer, by their identifiers.
    private var answered: [UInt: Connection] = [:]

    private struct Shared {
        var ready: [Connection] = []
        var isStopping = false
    }

    init(_ socket: RSocket, backlog: Int32) throws(ProviderError) {
        self.socket = socket
        unsafe identifier = unsafe socket.identifier
        unsafe channel = unsafe socket.channel
        path = socket.path
        family = socket.family
        limit = min(max(Int(backlog), 1), 1_024)
        do throws(PacketIOError) {
            waker = try EventDescriptor()
        } catch {
            throw ProviderError("rlisten", code: EMFILE)
        }
        try unsafe path.listen(identifier, backlog: backlog)
        RSockets.closeAtExit()
        try start()
    }

    private func start() throws(ProviderError) {
        do throws(PacketIOError) {
            thread = try startThread { self.run() }
        } catch {
            throw ProviderError("rlisten", error)
        }
    }

    var hasConnection: Bool { shared.withLock { !$0.ready.isEmpty } }

    /// The oldest connection that was made, which gets its channel, and with it its number, now: librspreload of rdma-core 44 confuses
    /// a socket whose number is lower than that of the descriptor that stands for it in the program.
    func take() -> RSocket? {
        let taken = shared.withLock { $0.ready.isEmpty ? nil : $0.ready.removeFirst() }
        guard let taken, let identifier = unsafe UnsafeMutablePointer<rdma_cm_id>(bitPattern: taken.identifier) else {
            return nil
        }
        // There is room for another.
        waker.signal()
        var made: RSocket?
        _ = softCode { () throws(ProviderError) in
            let channel = unsafe try path.makeEventChannel()
            do throws(ProviderError) {
                try unsafe SoftProvider.shared.migrate(identifier, to: channel)
            } catch {
                unsafe path.destroy(channel)
                throw error
            }
            let socket = unsafe RSocket(identifier, on: channel, family: family, path)
            socket.options = taken.options
            socket.sizes = taken.sizes
            socket.phase = .connected(taken.stream)
            made = socket
        }
        return made
    }

    /// Ends the thread, and closes what nobody took.
    func stop() {
        shared.withLock { $0.isStopping = true }
        waker.signal()
        pthread_join(thread, nil)
        while let socket = take() { socket.close() }
    }

    // MARK: The thread

    private func run() {
        while !shared.withLock({ $0.isStopping }) {
            var waiting = unsafe [channel.pointee.fd, waker.number].map {
                pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
            }
            _ = unsafe poll(&waiting, nfds_t(waiting.count), -1)
            waker.takeIfAny()
            while let news = unsafe ConnectionNews.next(on: channel, path) { take(news) }
            while let request = requests.first, answered.count + shared.withLock({ $0.ready.count }) < limit {
                requests.removeFirst()
                answer(request)
            }
        }
        for request in requests { drop(request.identifier) }
        for identifier in Array(answered.keys) {
            answered[identifier] = nil
            drop(identifier)
        }
    }

    private func take(_ news: ConnectionNews) {
        switch news.type {
        case .RDMA_CM_EVENT_CONNECT_REQUEST:
            if let greeting = StreamGreeting(news.privateData) {
                requests.append(Request(identifier: news.identifier, greeting: greeting))
            } else {
                // No rsocket asks.
                drop(news.identifier)
            }
        case .RDMA_CM_EVENT_ESTABLISHED: finish(news.identifier)
        default:
            guard news.identifier != UInt(bitPattern: unsafe identifier) else { return }
            // It changed its mind, or is gone.
            let count = requests.count
            requests.removeAll { $0.identifier == news.identifier }
            if count != requests.count || answered.removeValue(forKey: news.identifier) != nil { drop(news.identifier) }
        }
    }

    private func drop(_ address: UInt) {
        // Rejects what is not answered.
        if let identifier = unsafe UnsafeMutablePointer<rdma_cm_id>(bitPattern: address) {
            try? unsafe path.destroy(identifier)
        }
    }

    private func answer(_ request: Request) {
        guard let socket, let identifier = unsafe UnsafeMutablePointer<rdma_cm_id>(bitPattern: request.identifier)
        else {
            return drop(request.identifier)
        }
        let (options, sizes) = socket.locked { (socket.options, socket.sizes) }
        var made: ByteStream?
        let code = softCode { () throws(ProviderError) in
            let stream = unsafe try ByteStream(identifier, sizes)
            stream.meet(request.greeting)
            made = stream
            try unsafe move(identifier, to: .IBV_QPS_RTR, path)
            try unsafe move(identifier, to: .IBV_QPS_RTS, path)
            unsafe try stream.greeting.withParameters(queuePair: stream.queuePairNumber) {
                (parameters) throws(ProviderError) in
                try unsafe path.accept(identifier, parameters)
            }
        }
        guard code == 0, let made else {
            made = nil
            return drop(request.identifier)
        }
        answered[request.identifier] = Connection(
            identifier: request.identifier, stream: made, options: options, sizes: sizes)
    }

    /// The peer knows that it is connected.
    private func finish(_ address: UInt) {
        guard let connection = answered.removeValue(forKey: address) else { return }
        shared.withLock { $0.ready.append(connection) }
        if let socket { socket.locked { socket.ring() } }
    }
}
