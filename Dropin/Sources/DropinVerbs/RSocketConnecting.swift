// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

// How rsockets come to be connected and how they end: the events of their identifiers.

/// What is needed of an event after it was acknowledged.
struct ConnectionNews: Sendable {
    let type: rdma_cm_event_type
    let status: Int32
    let privateData: [UInt8]
    /// The address of the identifier that it is about.
    let identifier: UInt

    /// Reads the next event of a channel, without waiting, and acknowledges it.
    static func next(
        on channel: UnsafeMutablePointer<rdma_event_channel>, _ path: any ConnectionPath
    ) -> ConnectionNews? {
        guard let event = unsafe try? nextEvent(on: channel, path) else { return nil }
        let count = Int(unsafe event.pointee.param.conn.private_data_len)
        let news = unsafe ConnectionNews(
            type: event.pointee.event, status: event.pointee.status,
            privateData: event.pointee.param.conn.private_data.map {
                unsafe Array(UnsafeRawBufferPointer(start: $0, count: count))
            } ?? [], identifier: UInt(bitPattern: event.pointee.id))
        try? unsafe path.acknowledge(event)
        return news
    }

    /// Why a connection was not made.
    var code: Int32 {
        switch type {
        case .RDMA_CM_EVENT_REJECTED: ECONNREFUSED
        case .RDMA_CM_EVENT_UNREACHABLE: ETIMEDOUT
        case .RDMA_CM_EVENT_ADDR_ERROR, .RDMA_CM_EVENT_ROUTE_ERROR: status == 0 ? EHOSTUNREACH : abs(status)
        default: ECONNABORTED
        }
    }
}

extension StreamGreeting {
    /// Runs a call with the parameters of a connection whose private data this is.
    func withParameters(
        queuePair: UInt32, _ body: (UnsafeMutablePointer<rdma_conn_param>) throws(ProviderError) -> Void
    ) throws(ProviderError) {
        let data = bytes
        let buffer = UnsafeMutableRawPointer.allocate(byteCount: data.count, alignment: 8)
        defer { unsafe buffer.deallocate() }
        unsafe buffer.copyMemory(from: data, byteCount: data.count)
        var parameters = unsafe rdma_conn_param()
        unsafe parameters.private_data = UnsafeRawPointer(buffer)
        unsafe parameters.private_data_len = UInt8(data.count)
        unsafe parameters.flow_control = 1
        unsafe parameters.retry_count = 7
        // Without end: a peer that is slow to post receives is no broken one.
        unsafe parameters.rnr_retry_count = 7
        unsafe parameters.qp_num = queuePair
        try unsafe body(&parameters)
    }
}

extension RSocket {
    /// Begins to connect.
    /// - Returns: 0, or an `errno`.
    func beginConnecting(to address: UnsafePointer<sockaddr>) -> Int32 {
        switch phase {
        case .idle, .failed: break
        case .connecting: return EALREADY
        case .connected: return EISCONN
        case .listening, .datagrams: return EOPNOTSUPP
        case .closed: return EBADF
        }
        let code = softCode { () throws(ProviderError) in
            try unsafe path.resolveAddress(
                identifier, source: nil, destination: UnsafeMutablePointer(mutating: address),
                timeoutMilliseconds: 2_000)
        }
        if code == 0 { phase = .connecting }
        return code
    }

    /// Takes all events that wait.
    /// - Returns: whether there was one.
    func takeConnectionEvents() -> Bool {
        switch phase {
        case .connecting, .connected: break
        case .idle, .listening, .failed, .closed, .datagrams: return false
        }
        var isAny = false
        while let news = unsafe ConnectionNews.next(on: channel, path) {
            isAny = true
            take(news)
        }
        return isAny
    }

    private func take(_ news: ConnectionNews) {
        switch phase {
        case .connecting:
            let code = softCode { () throws(ProviderError) in try goOn(after: news) }
            if code != 0 {
                forming = nil
                pendingError = code
                phase = .failed
            }
        case .connected(let stream):
            guard news.type == .RDMA_CM_EVENT_DISCONNECTED || news.type == .RDMA_CM_EVENT_DEVICE_REMOVAL else { return }
            // What came before it counts, the peer's last message above all.
            stream.progress()
            if stream.isConnected { stream.end() }
        case .idle, .listening, .failed, .closed, .datagrams: break
        }
    }

    private func goOn(after news: ConnectionNews) throws(ProviderError) {
        switch news.type {
        case .RDMA_CM_EVENT_ADDR_RESOLVED:
            RSockets.closeAtExit()
            try unsafe path.resolveRoute(identifier, timeoutMilliseconds: 2_000)
        case .RDMA_CM_EVENT_ROUTE_RESOLVED:
            let stream = unsafe try ByteStream(identifier, sizes)
            forming = stream
            unsafe try stream.greeting.withParameters(queuePair: stream.queuePairNumber) {
                (parameters) throws(ProviderError) in
                try unsafe path.connect(identifier, parameters)
            }
        case .RDMA_CM_EVENT_ESTABLISHED:
            guard let stream = forming, let greeting = StreamGreeting(news.privateData) else {
                throw ProviderError("rconnect", code: EPROTO, detail: "the peer is no rsocket of version 1")
            }
            forming = nil
            stream.meet(greeting)
            phase = .connected(stream)
        default: throw ProviderError("rconnect", code: news.code)
        }
    }

    /// How long a socket that is closed waits for its peer's device to have the last bytes.
    private static let lingerNanosecondsMax: UInt64 = 10_000_000_000

    /// Ends everything: says so to the peer, waits until it has what was sent, and gives back what the socket has.
    func close() {
        let deadline = monotonicNanoseconds() + Self.lingerNanosecondsMax
        _ = wait(unless: false, until: deadline) { () -> Bool? in
            guard case .connected(let stream) = phase else { return true }
            guard stream.canEnd else { return nil }
            stream.shutDown(reading: true, writing: true)
            ring()
            return true
        }
        _ = wait(unless: false, until: deadline) { () -> Bool? in
            switch phase {
            case .connected(let stream): return stream.isDrained ? true : nil
            case .datagrams(let end): return end.isDrained ? true : nil
            case .idle, .listening, .connecting, .failed, .closed: return true
            }
        }
        let listener = locked { () -> RSocketListener? in
            defer {
                phase = .closed
                forming = nil
                ring()
            }
            guard case .listening(let listener) = phase else {
                if case .connected = phase { try? unsafe path.disconnect(identifier) }
                return nil
            }
            return listener
        }
        listener?.stop()
    }
}
