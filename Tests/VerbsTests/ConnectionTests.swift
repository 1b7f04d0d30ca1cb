// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    /// Listeners and connections: the usual sequence, done by the library.
    @Suite("a connection", .serialized, TestDevice.hasConnections) struct Connections {
        @Test("carries messages both ways, and private data with the handshake")
        func messages() throws {
            let pair = try Pair(
                question: ConnectionParameters(privateData: [1, 2, 3]),
                answer: ConnectionParameters(privateData: [4, 5]))
            #expect(pair.offer.privateData.prefix(4) == [1, 2, 3, 0])
            #expect(pair.client.peerParameters.privateData.prefix(3) == [4, 5, 0])
            #expect(pair.client.peerAddress == pair.server.localAddress)
            #expect(pair.client.localAddress == pair.server.peerAddress)
            for round in 0..<20 {
                try pair.send("ping \(round)", from: pair.client, to: pair.server)
                try pair.send("pong \(round)", from: pair.server, to: pair.client)
            }
        }

        @Test("is asked for at any address of the machine", arguments: [SocketAddress.any(), .anyIPv4()])
        func wildcard(_ address: SocketAddress) throws {
            let pair = try Pair(at: address, connectTo: TestDevice.address().address)
            #expect(pair.listener?.address.isWildcard == true)
            #expect(pair.server.localAddress?.address == (try TestDevice.address().address))
            try pair.send("anywhere", from: pair.server, to: pair.client)
        }

        @Test(
            "is made over IPv6 too",
            .enabled(if: TestDevice.addressIPv6 != nil, "\(TestDevice.name) has no IPv6 address but link-local ones"))
        func overIPv6() throws {
            let pair = try Pair(at: TestDevice.addressIPv6)
            #expect(pair.server.localAddress?.address == TestDevice.addressIPv6?.address)
            #expect(pair.client.peerAddress == pair.server.localAddress)
            #expect(pair.server.peerAddress == pair.client.localAddress)
            try pair.send("six", from: pair.client, to: pair.server)
        }

        @Test("agrees on depths, and reads and writes the peer's memory")
        func depths() throws {
            let pair = try Pair(
                question: ConnectionParameters(initiatorDepth: 3, responderResources: 5),
                answer: ConnectionParameters(initiatorDepth: 4, responderResources: 2))
            #expect(pair.server.initiatorDepth == 4 && pair.server.responderResources == 2)
            #expect(pair.client.initiatorDepth == 2 && pair.client.responderResources == 4)
            let client = try pair.client.queuePair.queryAttributes()
            #expect(client.maxReads == 2 && client.maxDestinationReads == 4 && client.minRNRTimer == 12)
            let server = try pair.server.queuePair.queryAttributes()
            #expect(server.maxReads == 4 && server.maxDestinationReads == 2 && server.rnrRetry == 7)
            let memory = try pair.domain.makeRegion(length: 64, access: .remote)
            memory.bytes[5] = 99
            expectPosted(pair.client.queuePair.post(.read(from: memory.remote), try pair.buffer(count: 64)))
            let read = try nextCompletion(pair.clientCompletions)
            #expect(read.takeBuffer()?.array[5] == 99)
            expectPosted(pair.server.queuePair.post(.write(to: memory.remote), try pair.buffer("over")))
            try expectNext(pair.serverCompletions, .success)
            #expect(memory.bytes[0] == UInt8(ascii: "o"))
        }

        @Test("shares one context between all connections of a device")
        func context() throws {
            let first = try Pair()
            let second = try Pair()
            #expect(first.context === second.context)
            #expect(first.client.queuePair.domain.context === first.context)
        }

        @Test("ends with every work request resolved once, whoever begins", arguments: [true, false])
        func disconnect(clientBegins: Bool) throws {
            let pair = try Pair(receives: 5)
            let (first, second) = clientBegins ? (pair.client, pair.server) : (pair.server, pair.client)
            try first.disconnect()
            #expect(first.hasEnded)
            #expect(second.waitForEnd(timeout: TestDevice.patience))
            // Nobody of the other side has done anything: its receives are flushed all the same.
            for queue in [true, false] {
                for _ in 0..<5 {
                    let completion =
                        queue
                        ? try nextCompletion(pair.clientCompletions) : try nextCompletion(pair.serverCompletions)
                    #expect(completion.status == .flushed)
                    #expect(hasBuffer(completion) == true)
                }
            }
            try second.disconnect()
            try first.disconnect()
            #expect(try isEmpty(pair.clientCompletions) && isEmpty(pair.serverCompletions))
            #expect(pair.pool.available == pair.pool.count)
            #expect(pair.client.queuePair.receivesInFlight == 0 && pair.server.queuePair.receivesInFlight == 0)
        }

        @Test("that is let go tells the peer, and flushes")
        func drop() throws {
            let pair = try Pair(receives: 3)
            pair.dropClient()
            #expect(pair.server.waitForEnd(timeout: TestDevice.patience))
            for _ in 0..<3 {
                try expectNext(pair.clientCompletions, .flushed)
                try expectNext(pair.serverCompletions, .flushed)
            }
            #expect(try isEmpty(pair.clientCompletions) && isEmpty(pair.serverCompletions))
        }

        @Test("outlives its listener, and the other parents, in any order")
        func lifetimes() throws {
            var pair: Pair? = try Pair()
            pair?.listener = nil
            try pair?.send("still there", from: #require(pair).client, to: #require(pair).server)
            let server = try #require(pair).server
            pair = nil
            #expect(server.waitForEnd(timeout: TestDevice.patience))
        }

        @Test("leaves nothing open behind, nor do listeners and refused requests")
        func descriptors() throws {
            let device = try Device.named(TestDevice.name)
            func round() throws {
                let pair = try Pair(receives: 2)
                try pair.send("once", from: pair.client, to: pair.server)
                try pair.server.disconnect()
                let outgoing = try OutgoingConnection.resolve(TestDevice.address(port: 9), on: device)
                #expect(try refusedConnect(outgoing, Side(outgoing.context).makeQueuePair())?.cause == .rejected)
                _ = try TestDevice.channel().makeIdentifier(.udp)
            }
            // The first round opens what stays: the device itself, and what Dispatch has of its own.
            try round()
            let before = openDescriptors()
            for _ in 0..<5 { try round() }
            // Cancelled sources close theirs a moment later.
            try eventually("all descriptors are closed") { openDescriptors() <= before }
        }

        @Test("is refused with private data")
        func reject() throws {
            let listener = try Listener(at: TestDevice.address(), on: Device.named(TestDevice.name))
            let outgoing = try OutgoingConnection.resolve(listener.address, on: Device.named(TestDevice.name))
            let side = try Side(outgoing.context)
            let answering = Answering(listener) { (incoming) throws(VerbsError) in
                try incoming.reject(privateData: Array("full".utf8))
                let again = refusal { () throws(VerbsError) in try incoming.reject() }
                #expect(again?.cause == .invalidTransition)
            }
            let queuePair = try side.makeQueuePair()
            let error = refusedConnect(outgoing, queuePair)
            try answering.join()
            #expect(error?.cause == .rejected && error?.value == "28 consumer reject")
            #expect(outgoing.refusal?.reason == .consumer)
            #expect(outgoing.refusal?.privateData.prefix(5) == [102, 117, 108, 108, 0])
        }

        @Test("to a port where nobody listens is refused, and works once only")
        func nobody() throws {
            let outgoing = try OutgoingConnection.resolve(
                TestDevice.address(port: 9), on: Device.named(TestDevice.name))
            let completions = try makeQueue(outgoing.context)
            let domain = try outgoing.context.makeProtectionDomain()
            for cause in [VerbsError.Cause.rejected, .invalidTransition] {
                let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
                let error = refusedConnect(outgoing, queuePair)
                #expect(error?.cause == cause)
            }
            #expect(outgoing.refusal?.reason == .invalidServiceID)
        }

        @Test("that the peer does not answer times out")
        func silence() throws {
            let listener = try Listener(at: TestDevice.address(), on: Device.named(TestDevice.name))
            let outgoing = try OutgoingConnection.resolve(listener.address, on: Device.named(TestDevice.name))
            let completions = try makeQueue(outgoing.context)
            let queuePair = try outgoing.context.makeProtectionDomain()
                .makeQueuePair(.reliableConnected, completions: completions)
            let error = refusedConnect(outgoing, queuePair, timeout: .milliseconds(200))
            #expect(error?.cause == .timedOut && error?.verb == "rdma_connect")
            // It was asked for, and given up since.
            let incoming = try #require(try listener.nextRequest(timeout: TestDevice.patience))
            #expect(incoming.peerAddress == outgoing.identifier.localAddress)
            #expect(try listener.nextRequest(timeout: .zero) == nil)
            #expect(try listener.nextRequest(timeout: .milliseconds(10)) == nil)
        }

        @Test("takes no queue pair of another transport or with too much private data")
        func wrongQueuePair() throws {
            let listener = try Listener(at: TestDevice.address(), on: Device.named(TestDevice.name))
            let outgoing = try OutgoingConnection.resolve(listener.address, on: Device.named(TestDevice.name))
            let completions = try makeQueue(outgoing.context)
            let domain = try outgoing.context.makeProtectionDomain()
            let datagrams = try domain.makeQueuePair(.unreliableDatagram, completions: completions)
            let error = refusedConnect(outgoing, datagrams)
            #expect(error?.cause == .invalidAttribute && error?.subject == "queue pair")
            let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
            let tooMuch = ConnectionParameters(privateData: [UInt8](repeating: 0, count: 57))
            let second = refusedConnect(outgoing, queuePair, tooMuch)
            #expect(second?.limit == "56 bytes")
        }

        @Test("waits in the backlog of a listener, which refuses what is beyond, and all when it closes")
        func backlog() throws {
            let device = try Device.named(TestDevice.name)
            let listener = try Listener(
                at: TestDevice.address(), options: Listener.Options(backlog: 1), on: device)
            let channel = try TestDevice.channel()
            let sides = try (0..<3).map { _ in
                let identifier = try channel.makeIdentifier(.tcp)
                try Introduction.resolve(identifier, listener.address)
                return (identifier, try Equipment(identifier))
            }
            for (identifier, side) in sides { try identifier.connect(side.queuePair) }
            func refused() throws -> ConnectionIdentifier {
                try channel.await("a refusal") { if case .rejected = $0.kind { $0.identifier } else { nil } }
            }
            let early = [try refused(), try refused()]
            #expect(early[0] !== early[1])
            listener.close()
            let late = try refused()
            #expect(sides.contains { $0.0 === late } && !early.contains { $0 === late })
            #expect(try listener.nextRequest() == nil)
        }

        @Test("is served by one task and asked for by another")
        func tasks() async throws {
            let device = try Device.named(TestDevice.name)
            let listener = try Listener(at: TestDevice.address(), on: device)
            async let served: Int = serve(listener, 3)
            for round in 0..<3 {
                let outgoing = try await OutgoingConnection.resolve(listener.address, on: device)
                let side = try Side(outgoing.context)
                let queuePair = try side.makeQueuePair()
                try outgoing.prepare(queuePair)
                expectPosted(queuePair.receive(try unwrap(side.pool.take())))
                let connection = try await outgoing.connect(queuePair)
                expectPosted(connection.queuePair.post(.send, try side.buffer("task \(round)")))
                #expect(try side.texts(2).contains("echo task \(round)"))
                try await connection.disconnect()
            }
            #expect(try await served == 3)
        }

        @Test("comes to one of several tasks that wait for it")
        func severalTasks() async throws {
            let device = try Device.named(TestDevice.name)
            let listener = try Listener(at: TestDevice.address(), on: device)
            let count = try await withThrowingTaskGroup(of: Bool.self) { group in
                for _ in 0..<3 {
                    group.addTask {
                        guard let incoming = try await listener.nextRequest(timeout: TestDevice.patience) else {
                            return false
                        }
                        try incoming.reject()
                        return true
                    }
                }
                for _ in 0..<3 {
                    let outgoing = try await OutgoingConnection.resolve(listener.address, on: device)
                    let queuePair = try Side(outgoing.context).makeQueuePair()
                    do throws(VerbsError) {
                        _ = try await outgoing.connect(queuePair)
                        Issue.record("the connection was made")
                    } catch {
                        #expect(error.cause == .rejected)
                    }
                }
                return try await group.reduce(0) { $0 + ($1 ? 1 : 0) }
            }
            #expect(count == 3)
        }

        @Test("stops waiting when its task is cancelled")
        func cancellation() async throws {
            let listener = try Listener(at: TestDevice.address(), on: Device.named(TestDevice.name))
            let task = Task { () -> Int in
                var count = 0
                for try await _ in listener.requests { count += 1 }
                return count
            }
            task.cancel()
            #expect(try await task.value == 0)
            #expect(try await listener.nextRequest(timeout: .milliseconds(10)) == nil)
            let closing = Task { try await listener.nextRequest() == nil }
            listener.close()
            #expect(try await closing.value)
        }
    }
}

/// Echoes one message on each of so many connections.
private func serve(_ listener: Listener, _ count: Int) async throws -> Int {
    var served = 0
    for try await incoming in listener.requests {
        let side = try Side(incoming.context)
        let queuePair = try side.makeQueuePair()
        try incoming.prepare(queuePair)
        expectPosted(queuePair.receive(try unwrap(side.pool.take())))
        let connection = try await incoming.accept(queuePair)
        let text = try #require(try side.texts(1).first)
        expectPosted(connection.queuePair.post(.send, try side.buffer("echo " + text)))
        // Flushed, if the client has it and ends the connection before its acknowledgement is here.
        let sent = try nextCompletion(side.completions)
        #expect([.success, .flushed].contains(sent.status))
        #expect(await connection.waitForEnd(timeout: TestDevice.patience))
        served += 1
        if served == count { break }
    }
    return served
}

/// The error of an attempt that must fail.
private func refusedConnect(
    _ outgoing: OutgoingConnection, _ queuePair: consuming QueuePair,
    _ parameters: ConnectionParameters = ConnectionParameters(), timeout: Duration = TestDevice.patience
) -> VerbsError? {
    do throws(VerbsError) {
        _ = try outgoing.connect(queuePair, parameters, timeout: timeout)
        Issue.record("the connection was made")
        return nil
    } catch {
        return error
    }
}

private func openDescriptors() -> Int {
    (0..<1024).count { fcntl($0, F_GETFD) != -1 }
}

private func expectNext(_ queue: borrowing CompletionQueue, _ status: WorkStatus) throws {
    let completion = try nextCompletion(queue)
    #expect(completion.status == status)
}

private func makeQueue(_ context: Context) throws -> CompletionQueue {
    try context.makeCompletionQueue(capacity: 512)
}

/// What one side of a connection needs, without its queue pair.
private final class Side {
    let domain: ProtectionDomain
    let pool: BufferPool
    let completions: CompletionQueue

    init(_ context: Context) throws {
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: 8, size: 256)
        completions = try context.makeCompletionQueue(capacity: 64)
    }

    func makeQueuePair() throws -> QueuePair {
        try domain.makeQueuePair(
            .reliableConnected, options: QueuePairOptions(sendDepth: 8, receiveDepth: 8), completions: completions)
    }

    func buffer(_ text: String) throws -> RegisteredBuffer {
        var buffer = try unwrap(pool.take())
        buffer.fill(from: Array(text.utf8))
        return buffer
    }

    /// The texts of the buffers of the next completions.
    func texts(_ count: Int) throws -> [String] {
        try (0..<count).map { _ in
            let completion = try nextCompletion(completions)
            #expect(completion.status == .success)
            return try unwrap(completion.takeBuffer()).text
        }
    }
}

/// A thread that answers one request.
private final class Answering: @unchecked Sendable {
    private var thread = pthread_t()
    private let listener: Listener
    private let body: (IncomingConnection) throws -> Void
    private var error: (any Error)?

    init(_ listener: Listener, _ body: @escaping (IncomingConnection) throws -> Void) {
        self.listener = listener
        self.body = body
        let context = Unmanaged.passRetained(self).toOpaque()
        pthread_create(
            &thread, nil,
            { context in
                let answering = Unmanaged<Answering>.fromOpaque(context!).takeRetainedValue()
                answering.run()
                return nil
            }, context)
    }

    private func run() {
        do {
            guard let incoming = try listener.nextRequest(timeout: TestDevice.patience) else {
                throw TimeoutError(description: "no request")
            }
            try body(incoming)
        } catch {
            self.error = error
        }
    }

    func join() throws {
        pthread_join(thread, nil)
        if let error { throw error }
    }
}

/// Two connections of one process, each with a completion queue, in one protection domain.
private final class Pair {
    let context: Context
    let domain: ProtectionDomain
    let pool: BufferPool
    let clientCompletions: CompletionQueue
    let serverCompletions: CompletionQueue
    var listener: Listener?
    let offer: ConnectionParameters
    let server: Connection
    private var maybeClient: Connection?

    var client: Connection { maybeClient! }

    init(
        question: ConnectionParameters = ConnectionParameters(), answer: ConnectionParameters = ConnectionParameters(),
        receives: Int = 0, at address: SocketAddress? = nil, connectTo: GID? = nil
    ) throws {
        let device = try Device.named(TestDevice.name)
        let listener = try Listener(at: address ?? TestDevice.address(), on: device)
        let peer = SocketAddress(connectTo ?? listener.address.address, port: listener.address.port)
        let outgoing = try OutgoingConnection.resolve(peer, on: device)
        self.listener = listener
        context = outgoing.context
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: 32, size: 256, access: .remote)
        clientCompletions = try context.makeCompletionQueue(capacity: 64)
        serverCompletions = try context.makeCompletionQueue(capacity: 64)
        let options = QueuePairOptions(sendDepth: 16, receiveDepth: 16)
        let active = try domain.makeQueuePair(.reliableConnected, options: options, completions: clientCompletions)
        try outgoing.prepare(active)
        let passive = try domain.makeQueuePair(.reliableConnected, options: options, completions: serverCompletions)
        for _ in 0..<receives { expectPosted(active.receive(try unwrap(pool.take()))) }

        // The client waits for the server's answer, so it asks from a thread of its own.
        let asking = Asking(outgoing, active, question)
        let incoming = try #require(try listener.nextRequest(timeout: TestDevice.patience))
        offer = incoming.parameters
        #expect(incoming.context === context)
        try incoming.prepare(passive)
        for _ in 0..<receives { expectPosted(passive.receive(try unwrap(pool.take()))) }
        server = try incoming.accept(passive, answer, timeout: TestDevice.patience)
        maybeClient = try asking.join()
    }

    func dropClient() { maybeClient = nil }

    func buffer(_ text: String) throws -> RegisteredBuffer {
        var buffer = try unwrap(pool.take())
        buffer.fill(from: Array(text.utf8))
        return buffer
    }

    func buffer(count: Int) throws -> RegisteredBuffer {
        var buffer = try unwrap(pool.take())
        buffer.count = count
        return buffer
    }

    func send(_ text: String, from: Connection, to: Connection) throws {
        expectPosted(to.queuePair.receive(try unwrap(pool.take())))
        expectPosted(from.queuePair.post(.send, try buffer(text)))
        let isClient = from === maybeClient
        let sent = try isClient ? nextCompletion(clientCompletions) : nextCompletion(serverCompletions)
        #expect(sent.status == .success)
        let received = try isClient ? nextCompletion(serverCompletions) : nextCompletion(clientCompletions)
        #expect(received.takeBuffer()?.text == text)
    }
}

/// A thread that asks for a connection.
private final class Asking: @unchecked Sendable {
    private var thread = pthread_t()
    private let outgoing: OutgoingConnection
    private var queuePair: QueuePair?
    private let question: ConnectionParameters
    private var result: Result<Connection, VerbsError>?

    init(_ outgoing: OutgoingConnection, _ queuePair: consuming QueuePair, _ question: ConnectionParameters) {
        self.outgoing = outgoing
        self.queuePair = consume queuePair
        self.question = question
        let context = Unmanaged.passRetained(self).toOpaque()
        pthread_create(
            &thread, nil,
            { context in
                let asking = Unmanaged<Asking>.fromOpaque(context!).takeRetainedValue()
                asking.run()
                return nil
            }, context)
    }

    private func run() {
        do throws(VerbsError) {
            guard let queuePair = queuePair.take() else { return }
            result = .success(try outgoing.connect(queuePair, question, timeout: TestDevice.patience))
        } catch {
            result = .failure(error)
        }
    }

    func join() throws -> Connection {
        pthread_join(thread, nil)
        return try #require(result).get()
    }
}
