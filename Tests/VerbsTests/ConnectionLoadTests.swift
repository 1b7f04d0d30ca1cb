// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    /// Many connections, and many processes on one address.
    @Suite("connections in numbers", .serialized, TestDevice.hasConnections) struct ConnectionLoad {
        /// Each open context is to the others what another process is: a slot, sockets and a thread of its own.
        @Test(
            "find their ends among all who share an address",
            .enabled(if: TestDevice.name.hasPrefix("soft"), "a software device only"))
        func sharedAddress() throws {
            let bystanders = try (0..<8).map { _ in try TestDevice.open() }
            let crowd = try Crowd(count: 40)
            try crowd.connect()
            try crowd.exchange()
            try crowd.disconnect()
            let handedOver = bystanders.flatMap(\.counters).filter { $0.name == "forwarded" }.reduce(0) {
                $0 + $1.value
            }
            let received = crowd.context.counters.first { $0.name == "forwarded_received" }?.value ?? 0
            // The kernel chooses one of nine sockets by the hash of the addresses.
            if handedOver > 0 { #expect(received > 0) }
        }

        /// Set up in rounds, all of a round open at a time. `VERBS_TEST_CONNECTIONS` changes how many there are in all.
        @Test("are all set up, move data each, and end")
        func many() throws {
            let total =
                getenv("VERBS_TEST_CONNECTIONS").flatMap { Int(String(cString: $0)) }
                ?? (TestDevice.isRXE ? 100 : 10_000)
            for _ in 0..<max(1, total / 1_000) {
                let crowd = try Crowd(count: min(total, 1_000))
                try crowd.connect()
                try crowd.exchange()
                try crowd.disconnect()
            }
        }
    }
}

/// Connections between two channels of this process, all open at a time.
private final class Crowd {
    /// One end of a connection.
    final class End {
        let identifier: ConnectionIdentifier
        let queuePair: QueuePair

        init(_ identifier: ConnectionIdentifier, _ domain: ProtectionDomain, _ completions: borrowing CompletionQueue)
            throws
        {
            self.identifier = identifier
            queuePair = try domain.makeQueuePair(
                .reliableConnected, options: QueuePairOptions(sendDepth: 2, receiveDepth: 2), completions: completions)
            try identifier.prepare(queuePair)
        }
    }

    let count: Int
    let context: Context
    private let ends: Introduction
    private let domain: ProtectionDomain
    private let pool: BufferPool
    private let completions: CompletionQueue
    private var active: [ObjectIdentifier: End] = [:]
    private var passive: [ObjectIdentifier: End] = [:]

    init(count: Int) throws {
        self.count = count
        ends = try Introduction(backlog: 1_024)
        context = try #require(ends.client.context)
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: 4 * count, size: 64)
        completions = try context.makeCompletionQueue(capacity: 8 * count)
    }

    private func receive(_ end: End) throws { expectPosted(end.queuePair.receive(try unwrap(pool.take()))) }

    func connect() throws {
        let port = try #require(ends.listener.localAddress).port
        let address = SocketAddress(try TestDevice.address().address, port: port)
        for _ in 0..<count {
            let identifier = try ends.clientChannel.makeIdentifier(.tcp)
            try Introduction.resolve(identifier, address)
            let end = try End(identifier, domain, completions)
            try receive(end)
            active[ObjectIdentifier(identifier)] = end
        }
        for end in active.values { try end.identifier.connect(end.queuePair) }
        var (asked, answered, established) = (0, 0, 0)
        let deadline = ContinuousClock.now + .seconds(60)
        while min(asked, answered, established) < count {
            guard ContinuousClock.now < deadline else {
                throw TimeoutError(description: "\(asked) asked, \(answered) answered, \(established) established")
            }
            while let event = try ends.serverChannel.nextEvent(timeout: .zero) {
                switch event.kind {
                case .connectRequest(let identifier, _):
                    asked += 1
                    let end = try End(identifier, domain, completions)
                    passive[ObjectIdentifier(identifier)] = end
                    try receive(end)
                    try identifier.activate(end.queuePair)
                    try identifier.accept(end.queuePair)
                case .established: established += 1
                default: Issue.record("\(event.kind)")
                }
            }
            guard let event = try ends.clientChannel.nextEvent(timeout: .milliseconds(1)) else { continue }
            guard case .connectResponse = event.kind, let end = active[ObjectIdentifier(event.identifier)] else {
                Issue.record("\(event.kind)")
                continue
            }
            answered += 1
            try end.identifier.activate(end.queuePair)
            try end.identifier.establish()
        }
        #expect(asked == count && answered == count && established == count)
    }

    /// A message each way on each connection.
    func exchange() throws {
        for side in [active, passive] {
            for end in side.values { expectPosted(end.queuePair.post(.send, try unwrap(pool.take()))) }
        }
        var received: Set<UInt32> = []
        for _ in 0..<4 * count {
            let completion = try nextCompletion(completions)
            #expect(completion.status == .success)
            if completion.opcode == .receive { received.insert(completion.queuePair) }
        }
        #expect(received.count == 2 * count)
    }

    /// Either end of each ends it, and both are told.
    func disconnect() throws {
        for (index, end) in active.values.enumerated() where index % 2 == 0 { try end.identifier.disconnect() }
        for (index, end) in passive.values.enumerated() where index % 2 == 1 { try end.identifier.disconnect() }
        for end in active.values { try end.identifier.disconnect() }
        var ended = [Set<ObjectIdentifier>(), []]
        let deadline = ContinuousClock.now + .seconds(60)
        while ended[0].count < count || ended[1].count < count {
            guard ContinuousClock.now < deadline else {
                throw TimeoutError(description: "\(ended[0].count) and \(ended[1].count) of \(count) have ended")
            }
            for (side, channel) in [ends.clientChannel, ends.serverChannel].enumerated() {
                guard let event = try channel.nextEvent(timeout: .milliseconds(1)) else { continue }
                if case .disconnected = event.kind {
                    #expect(ended[side].insert(ObjectIdentifier(event.identifier)).inserted)
                    if side == 1 { try event.identifier.disconnect() }
                }
            }
        }
    }
}
