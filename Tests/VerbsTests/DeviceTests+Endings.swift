// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    @Suite("every work request resolves exactly once", .serialized) struct Endings {
        @Test(
            "when its queue pair ends: receives are flushed with their buffers",
            arguments: [Transport.reliableConnected, .unreliableConnected, .unreliableDatagram])
        func receivesFlush(_ transport: Transport) throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 10, size: 256)
            let completions = try context.makeCompletionQueue(capacity: 64)
            do {
                let queuePair = try domain.makeQueuePair(
                    transport, options: QueuePairOptions(sendDepth: 10, receiveDepth: 10), completions: completions)
                _ = try queuePair.prepare()
                for id in 0..<10 { expectPosted(queuePair.receive(try unwrap(pool.take()), id: UInt64(id))) }
                #expect(pool.available == 0)
                try queuePair.destroy()
            }
            #expect(pool.available == 0, "the buffers wait for their completions")
            for id in 0..<10 {
                let completion = try unwrap(completions.next())
                #expect(completion.status == .flushed)
                #expect(completion.id == UInt64(id))
                #expect(completion.opcode.isReceive)
                #expect(completion.takeBuffer()?.capacity == 256)
            }
            #expect(try isEmpty(completions) == true)
            #expect(pool.available == 10)
            #expect(completions.charged == 0)
        }

        @Test("when its queue pair ends: sends that cannot proceed are flushed")
        func sendsFlush() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 10, size: 256)
            let completions = try context.makeCompletionQueue(capacity: 64)
            let serverCompletions = try context.makeCompletionQueue(capacity: 64)
            let options = QueuePairOptions(sendDepth: 10, receiveDepth: 10)
            let server = try domain.makeQueuePair(.reliableConnected, options: options, completions: serverCompletions)
            do {
                let client = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
                let endpoint = try client.prepare()
                // The peer never posts a receive, and is asked for ever.
                try server.prepareAndConnect(to: endpoint) { try client.connect(to: $0) }
                for id in 0..<6 {
                    let flags: SendFlags = id % 2 == 0 ? .signaled : []
                    expectPosted(client.post(.send, try unwrap(pool.take()), id: UInt64(id), flags: flags))
                }
            }
            var ids: [UInt64] = []
            while let completion = try completions.next() {
                #expect(completion.status != .success)
                #expect(!completion.opcode.isReceive)
                ids.append(completion.id)
                #expect(hasBuffer(completion) == true)
            }
            #expect(ids == [0, 1, 2, 3, 4, 5], "an unsignaled request that fails shows itself")
            #expect(pool.available == 10)
        }

        @Test("when its queue pair goes to ERR by hand")
        func errorState() throws {
            let pair = try ConnectedPair(.reliableConnected)
            for id in 0..<5 { expectPosted(try pair.server.receive(pair.buffer(), id: UInt64(id))) }
            try pair.server.modify(QueuePairAttributes(state: .error))
            for id in 0..<5 {
                let completion = try pair.serverCompletion()
                #expect(completion.status == .flushed)
                #expect(completion.id == UInt64(id))
                #expect(hasBuffer(completion) == true)
            }
            #expect(pair.server.receivesInFlight == 0)
            #expect(try pair.server.queryAttributes().state == .error)
        }

        @Test("when its queue pair is reset, which the device does silently")
        func reset() throws {
            let pair = try ConnectedPair(.reliableConnected)
            for id in 0..<5 { expectPosted(try pair.server.receive(pair.buffer(), id: UInt64(id))) }
            try pair.server.modify(QueuePairAttributes(state: .reset))
            for id in 0..<5 {
                let completion = try pair.serverCompletion()
                #expect(completion.status == .flushed)
                #expect(completion.id == UInt64(id))
            }
            #expect(pair.server.receivesInFlight == 0)
            #expect(pair.pool.available == pair.pool.count)
            #expect(pair.server.state == .reset)
            // And it can be used again.
            _ = try pair.server.prepare()
            expectPosted(try pair.server.receive(pair.buffer()))
        }

        @Test("also with completions that were fetched and not looked at")
        func fetchedBeforeTheEnd() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 16, size: 64)
            let completions = try context.makeCompletionQueue(capacity: 64)
            let options = QueuePairOptions(sendDepth: 8, receiveDepth: 8)
            let server = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            do {
                let client = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
                let endpoint = try client.prepare()
                try server.prepareAndConnect(to: endpoint) { try client.connect(to: $0) }
                for id in 0..<4 { expectPosted(server.receive(try unwrap(pool.take()), id: 10 + UInt64(id))) }
                for id in 0..<4 { expectPosted(client.post(.send, try unwrap(pool.take()), id: UInt64(id))) }
                // One is delivered; more may have been fetched with it. Then the client ends.
                try eventually("the first completion comes") {
                    guard let completion = try completions.next() else { return false }
                    #expect(completion.status == .success)
                    return true
                }
            }
            // What the client had not sent by then never arrives.
            try server.modify(QueuePairAttributes(state: .error))
            var seen = 1
            try eventually("all have come") {
                while let completion = try completions.next() {
                    #expect(completion.id < 14)
                    seen += 1
                }
                return seen == 8
            }
            #expect(pool.available == 16)
            #expect(server.receivesInFlight == 0)
        }

        @Test("and buffers return when nobody polls any more")
        func nobodyPolls() throws {
            let context = try TestDevice.open()
            let pool = try context.makeProtectionDomain().makeBufferPool(count: 4, size: 64)
            do {
                let completions = try context.makeCompletionQueue(capacity: 8)
                let queuePair = try pool.region.domain.makeQueuePair(
                    .unreliableDatagram, options: QueuePairOptions(sendDepth: 4, receiveDepth: 4),
                    completions: completions)
                _ = try queuePair.prepare()
                for _ in 0..<4 { expectPosted(queuePair.receive(try unwrap(pool.take()))) }
            }
            #expect(pool.available == 4)
        }

        @Test("and objects may be let go in any order", arguments: 0..<6)
        func anyOrder(_ order: Int) throws {
            var context: Context? = try TestDevice.open()
            var domain: ProtectionDomain? = try context?.makeProtectionDomain()
            var pool: BufferPool? = try domain?.makeBufferPool(count: 4, size: 64)
            var region: MemoryRegion? = try domain?.makeRegion(length: 4096, access: .remote)
            var completions: CompletionQueue? = try context?.makeCompletionQueue(capacity: 16)
            let made = try completions.borrowing { queue in
                try domain!.makeQueuePair(
                    .reliableConnected, options: QueuePairOptions(sendDepth: 4, receiveDepth: 4), completions: queue)
            }
            var queuePair: QueuePair? = consume made
            var held: RegisteredBuffer? = pool?.take()
            held?.count = 1
            _ = try queuePair?.prepare()
            if let buffer = pool?.take() { _ = queuePair?.receive(buffer).isPosted() }
            let orders = [
                [0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 0, 5, 1, 6, 2, 4], [1, 3, 2, 0, 4, 6, 5],
                [4, 5, 0, 1, 2, 3, 6], [2, 4, 6, 0, 1, 3, 5],
            ]
            for step in orders[order] {
                switch step {
                case 0: context = nil
                case 1: domain = nil
                case 2: pool = nil
                case 3: completions = nil
                case 4: queuePair = nil
                case 5: held = nil
                default: region = nil
                }
            }
            #expect(context == nil && domain == nil && pool == nil && region == nil)
        }
    }
}

extension Optional where Wrapped: ~Copyable {
    /// Borrows the value for a call; it must be there.
    fileprivate borrowing func borrowing<R: ~Copyable>(_ body: (borrowing Wrapped) throws -> R) throws -> R {
        switch self {
        case .some(let value): return try body(value)
        case .none: throw TimeoutError(description: "no value")
        }
    }
}
