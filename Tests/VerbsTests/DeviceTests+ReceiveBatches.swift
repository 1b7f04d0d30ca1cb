// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    @Suite("a batch of receives", .serialized) struct ReceiveBatches {
        @Test("fills the queue in lists, and messages take them in order")
        func inOrder() throws {
            let pair = try ConnectedPair(
                .reliableConnected, options: QueuePairOptions(sendDepth: 40, receiveDepth: 40, receiveElements: 2))
            let pool = try pair.domain.makeBufferPool(count: 120, size: 8)
            var batch = pair.server.receiveBatch()
            for id in 0..<40 {
                var first = try unwrap(pool.take())
                // Every second one has two buffers.
                if id % 2 == 1 {
                    first.count = 1
                    first.append(try unwrap(pool.take()))
                }
                expectPosted(batch.receive(first, id: UInt64(id)))
            }
            switch batch.receive(try pair.buffer("more")) {
            case .full(let buffer): #expect(buffer.text == "more")
            default: Issue.record("a 41st receive was taken by a queue of forty")
            }
            let result = batch.submit()
            #expect(result.posted == 40)
            #expect(result.error == nil)
            #expect(pair.server.receiveRoom == 0)
            for id in 0..<40 { expectPosted(try pair.client.post(.send, pair.buffer("a\(id)"), id: UInt64(id))) }
            for id in 0..<40 {
                let completion = try pair.serverCompletion()
                #expect(completion.status == .success && completion.id == UInt64(id))
                var received = try unwrap(completion.takeBuffer())
                guard id % 2 == 1 else {
                    #expect(received.text == "a\(id)")
                    continue
                }
                let rest = try unwrap(received.takeRest())
                #expect(received.text == "a")
                #expect(rest.text == "\(id)")
            }
            #expect(pair.server.receivesInFlight == 0)
            #expect(pool.available == pool.count)
        }

        @Test("goes on while completions are polled")
        func polledMeanwhile() throws {
            let pair = try ConnectedPair(.reliableConnected, options: QueuePairOptions(sendDepth: 8, receiveDepth: 8))
            let region = try pair.domain.makeRegion(length: 8 * 64)
            var posted = 0
            func fill(_ batch: inout ReceiveBatch, _ count: Int) {
                for _ in 0..<count {
                    let memory = region.local(offset: posted % 8 * 64, length: 64)
                    #expect(batch.receive(into: memory, id: UInt64(posted)) == .posted)
                    posted += 1
                }
            }
            var first = pair.server.receiveBatch()
            fill(&first, 4)
            #expect(first.submit().posted == 4)
            for round in 0..<30 {
                var batch = pair.server.receiveBatch()
                fill(&batch, 2)
                for id in 4 * round..<4 * round + 4 {
                    expectPosted(try pair.client.post(.send, pair.buffer("\(id)")))
                    #expect(try pair.clientCompletion().status == .success)
                    #expect(try pair.serverCompletion().id == UInt64(id))
                    #expect(region.bytes[id % 8 * 64] == "\(id)".utf8.first)
                }
                fill(&batch, 2)
                #expect(batch.submit().posted == 4)
            }
            #expect(pair.server.receivesInFlight == 4)
        }

        @Test("has no part of one that is let go")
        func abandoned() throws {
            let pair = try ConnectedPair(.reliableConnected)
            do {
                var batch = pair.server.receiveBatch()
                for _ in 0..<3 { expectPosted(try batch.receive(pair.buffer())) }
                #expect(pair.pool.available == pair.pool.count - 3)
            }
            #expect(pair.pool.available == pair.pool.count)
            #expect(pair.server.receivesInFlight == 0)
            expectPosted(try pair.server.receive(pair.buffer(), id: 7))
            expectPosted(try pair.client.post(.send, pair.buffer("works on")))
            let received = try pair.serverCompletion()
            #expect(received.id == 7)
            #expect(received.takeBuffer()?.text == "works on")
        }

        @Test(
            "gives its buffers back where the device takes none",
            .enabled(if: !TestDevice.isRXE, "rxe's provider takes receives in RESET"))
        func refused() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let completions = try context.makeCompletionQueue(capacity: 64)
            let pool = try domain.makeBufferPool(count: 40, size: 64)
            // In RESET nothing is posted.
            let queuePair = try domain.makeQueuePair(
                .reliableConnected, options: QueuePairOptions(sendDepth: 1, receiveDepth: 40), completions: completions)
            var batch = queuePair.receiveBatch()
            for _ in 0..<32 { expectPosted(batch.receive(try unwrap(pool.take()))) }
            switch batch.receive(try unwrap(pool.take())) {
            case .refused(_, let error): #expect(error.code == EINVAL)
            default: Issue.record("the list was taken in RESET")
            }
            // Nor does it take one more: what was posted stays the first of what was added.
            switch batch.receive(try unwrap(pool.take())) {
            case .refused(_, let error): #expect(error.code == EINVAL)
            default: Issue.record("a receive was taken behind those that were refused")
            }
            let result = batch.submit()
            #expect(result.posted == 0)
            #expect(result.error?.code == EINVAL)
            #expect(pool.available == pool.count)
            #expect(queuePair.receivesInFlight == 0)
        }

        @Test(
            "fills a shared queue, whose receives complete while it is open",
            .enabled(if: TestDevice.hasSharedReceiveQueues))
        func shared() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let completions = try context.makeCompletionQueue(capacity: 256)
            let pool = try domain.makeBufferPool(count: 128, size: 64)
            let queue = try domain.makeSharedReceiveQueue(depth: 40)
            let options = QueuePairOptions(sendDepth: 40, receiveDepth: 0)
            let server = try domain.makeQueuePair(
                .reliableConnected, options: options, sendCompletions: completions, receiveCompletions: completions,
                sharedReceives: queue)
            let client = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            let clientEndpoint = try client.prepare()
            try server.prepareAndConnect(to: clientEndpoint) { try client.connect(to: $0) }
            switch server.receiveBatch().refusal(of: try unwrap(pool.take())) {
            case .some(let error): #expect(error == .wrongTransport)
            case .none: Issue.record("a batch went beside the shared queue")
            }

            var next: UInt64 = 0
            var expected: UInt64 = 0
            func fill(_ batch: inout ReceiveBatch, _ count: Int) throws {
                for _ in 0..<count {
                    expectPosted(batch.receive(try unwrap(pool.take()), id: next))
                    next += 1
                }
            }
            func exchange(_ count: Int) throws {
                for _ in 0..<count { expectPosted(client.post(.send, try unwrap(pool.take()), flags: [])) }
                for _ in 0..<count {
                    var id: UInt64?
                    try eventually("a message comes") {
                        guard let completion = try completions.next() else { return false }
                        #expect(completion.status == .success)
                        id = completion.id
                        return true
                    }
                    #expect(id == expected)
                    expected += 1
                }
            }
            var first = queue.receiveBatch()
            try fill(&first, 40)
            #expect(first.submit().posted == 40)
            for _ in 0..<20 {
                var batch = queue.receiveBatch()
                switch batch.receive(try unwrap(pool.take())) {
                case .full: break
                default: Issue.record("a 41st receive was taken by a queue of forty")
                }
                try exchange(7)
                try fill(&batch, 5)
                try exchange(3)
                try fill(&batch, 5)
                #expect(batch.submit().posted == 10)
                #expect(queue.receivesInFlight == 40)
            }
            do {
                try exchange(4)
                var batch = queue.receiveBatch()
                for _ in 0..<4 { expectPosted(batch.receive(try unwrap(pool.take()))) }
            }
            #expect(queue.receivesInFlight == 36)
            #expect(queue.unresolvedIDs.count == 36)
            var last = queue.receiveBatch()
            try fill(&last, 4)
            #expect(last.submit().posted == 4)
            for _ in 0..<4 { try exchange(10) }
            #expect(queue.receivesInFlight == 0)
        }

        @Test("traps where a receive was posted beside it")
        func notAlone() async {
            await #expect(processExitsWith: .signal(ChildOfTest.trap)) {
                ChildOfTest.bound()
                let pair = try ConnectedPair(.reliableConnected)
                var batch = pair.server.receiveBatch()
                expectPosted(try batch.receive(pair.buffer()))
                expectPosted(try pair.server.receive(pair.buffer()))
                _ = batch.submit()
                exit(0)
            }
        }

        @Test("traps before it takes a record that is not its own", .enabled(if: TestDevice.hasSharedReceiveQueues))
        func sharedNotAlone() async {
            await #expect(processExitsWith: .signal(ChildOfTest.trap)) {
                ChildOfTest.bound()
                let domain = try TestDevice.open().makeProtectionDomain()
                let queue = try domain.makeSharedReceiveQueue(depth: 4)
                let pool = try domain.makeBufferPool(count: 8, size: 64)
                var batch = queue.receiveBatch()
                for _ in 0..<4 { expectPosted(queue.receive(try unwrap(pool.take()))) }
                _ = batch.receive(try unwrap(pool.take()))
                exit(0)
            }
        }

        @Test("of receives or sends traps where another one was opened beside it")
        func nested() async {
            await #expect(processExitsWith: .signal(ChildOfTest.trap)) {
                ChildOfTest.bound()
                let pair = try ConnectedPair(.reliableConnected)
                var batch = pair.server.receiveBatch()
                expectPosted(try batch.receive(pair.buffer()))
                do {
                    var another = pair.server.receiveBatch()
                    expectPosted(try another.receive(pair.buffer()))
                }
                _ = batch.submit()
                exit(0)
            }
            await #expect(processExitsWith: .signal(ChildOfTest.trap)) {
                ChildOfTest.bound()
                let pair = try ConnectedPair(.reliableConnected)
                var batch = pair.client.batch()
                expectPosted(try batch.post(.send, pair.buffer()))
                do {
                    var another = pair.client.batch()
                    expectPosted(try another.post(.send, pair.buffer()))
                }
                _ = batch.submit()
                exit(0)
            }
        }
    }
}

extension ReceiveBatch {
    /// Why it does not take a receive.
    fileprivate consuming func refusal(of buffer: consuming RegisteredBuffer) -> PostError? {
        switch receive(buffer) {
        case .refused(_, let error): return error
        case .posted: return nil
        case .full: return nil
        }
    }
}
