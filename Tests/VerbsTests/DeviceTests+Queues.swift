// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    @Suite("a queue", .serialized) struct Queues {
        @Test("that is full gives the buffer back, and takes it after a poll")
        func fullSendQueue() throws {
            let pair = try ConnectedPair(.reliableConnected, options: QueuePairOptions(sendDepth: 4, receiveDepth: 8))
            for _ in 0..<5 { expectPosted(try pair.server.receive(pair.buffer())) }
            for id in 0..<4 { expectPosted(try pair.client.post(.send, pair.buffer("\(id)"), id: UInt64(id))) }
            #expect(pair.client.sendRoom == 0)
            switch try pair.client.post(.send, pair.buffer("more")) {
            case .posted: Issue.record("a fifth request was taken by a queue of four")
            case .refused(_, let error): Issue.record("refused: \(error)")
            case .full(let buffer):
                #expect(buffer.text == "more")
                #expect(try pair.clientCompletion().id == 0)
                expectPosted(pair.client.post(.send, buffer, id: 4))
            }
            for id in 1..<5 { #expect(try pair.clientCompletion().id == UInt64(id)) }
            #expect(pair.client.sendsInFlight == 0)
        }

        @Test("of receives that is full gives the buffer back")
        func fullReceiveQueue() throws {
            let pair = try ConnectedPair(.reliableConnected, options: QueuePairOptions(sendDepth: 1, receiveDepth: 2))
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.server.receive(pair.buffer()))
            switch try pair.server.receive(pair.buffer("kept")) {
            case .full(let buffer): #expect(buffer.text == "kept")
            default: Issue.record("a third receive was taken by a queue of two")
            }
        }

        @Test("of unsignaled sends closes its accounts by itself, and the buffers return")
        func unsignaled() throws {
            let pair = try ConnectedPair(.reliableConnected, options: QueuePairOptions(sendDepth: 8, receiveDepth: 64))
            let target = try pair.domain.makeRegion(length: 4096, access: .remote)
            let end = ContinuousClock.now + TestDevice.patience
            var posted = 0
            while posted < 500, ContinuousClock.now < end {
                guard pair.pool.available > 0 else {
                    #expect(try isEmpty(pair.clientCompletions) == true)
                    continue
                }
                switch try pair.client.post(.write(to: target.remote), pair.buffer(count: 8), flags: []) {
                case .posted: posted += 1
                case .full: #expect(try isEmpty(pair.clientCompletions) == true, "an unsignaled request showed itself")
                case .refused(_, let error): throw error
                }
            }
            #expect(posted == 500)
            // Room for the last one may take a poll or two; none of them shows anything.
            try eventually("there is room") {
                if pair.client.sendRoom == 0 { _ = try isEmpty(pair.clientCompletions) }
                return pair.client.sendRoom > 0
            }
            expectPosted(try pair.client.post(.write(to: target.remote), pair.buffer(count: 8), id: 99))
            #expect(try pair.clientCompletion().id == 99)
            #expect(pair.client.sendsInFlight == 0)
            #expect(pair.pool.available == pair.pool.count)
        }

        @Test("takes a batch with few doorbells, in order")
        func batch() throws {
            let pair = try ConnectedPair(
                .reliableConnected, options: QueuePairOptions(sendDepth: 40, receiveDepth: 40), bufferSize: 64)
            let pool = try pair.domain.makeBufferPool(count: 80, size: 64)
            for _ in 0..<40 { expectPosted(pair.server.receive(try unwrap(pool.take()))) }
            var batch = pair.client.batch()
            for id in 0..<40 {
                var buffer = try unwrap(pool.take())
                buffer.fill(from: [UInt8(id)])
                expectPosted(batch.post(.send, buffer, id: UInt64(id)))
            }
            switch batch.post(.send, try pair.buffer("more")) {
            case .full(let buffer): #expect(buffer.text == "more")
            default: Issue.record("a 41st request was taken by a queue of forty")
            }
            let result = batch.submit()
            #expect(result.posted == 40)
            #expect(result.error == nil)
            for id in 0..<40 {
                let sent = try pair.clientCompletion()
                #expect(sent.status == .success && sent.id == UInt64(id))
                let received = try pair.serverCompletion()
                #expect(received.takeBuffer()?.array == [UInt8(id)])
            }
        }

        @Test("has no part of a batch that is let go")
        func abandonedBatch() throws {
            let pair = try ConnectedPair(.reliableConnected)
            do {
                var batch = pair.client.batch()
                for _ in 0..<3 { expectPosted(try batch.post(.send, pair.buffer("x"))) }
                #expect(pair.pool.available == pair.pool.count - 3)
            }
            #expect(pair.pool.available == pair.pool.count)
            #expect(pair.client.sendsInFlight == 0)
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.send, pair.buffer("works on"), id: 1))
            #expect(try pair.clientCompletion().id == 1)
            #expect(try pair.serverCompletion().takeBuffer()?.text == "works on")
        }

        @Test("carries raw requests, polled into the caller's storage and as a span")
        func raw() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            var completions = try context.makeCompletionQueue(capacity: 64)
            let options = QueuePairOptions(sendDepth: 16, receiveDepth: 16, sendElements: 2)
            let client = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            let server = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            let clientEndpoint = try client.prepare()
            try server.prepareAndConnect(to: clientEndpoint) { try client.connect(to: $0) }
            let region = try domain.makeRegion(length: 8192, access: .remote)
            region.bytes.copyBytes(from: Array("raw bytes".utf8))
            for id in 0..<4 {
                #expect(
                    server.receive(into: region.local(offset: 4096 + 100 * id, length: 100), id: 100 + UInt64(id))
                        == .posted)
            }
            let list = [region.local(offset: 4, length: 5), region.local(offset: 0, length: 3)]
            #expect(client.post(.send, from: region.local(offset: 0, length: 9), id: 1) == .posted)
            #expect(client.post(.send, from: list.span, id: 2) == .posted)
            var batch = client.batch()
            #expect(batch.post(.send, from: region.local(offset: 0, length: 1), id: 3) == .posted)
            #expect(batch.post(.send, from: region.local(offset: 0, length: 2), id: 4) == .posted)
            #expect(batch.submit().posted == 2)

            var ids: [UInt64] = []
            var storage = [WorkCompletion](repeating: WorkCompletion(), count: 3)
            try eventually("four completions come") {
                var span = storage.mutableSpan
                let count = try completions.poll(into: &span)
                for completion in storage.prefix(count) {
                    #expect(completion.status == .success)
                    ids.append(completion.id)
                }
                return ids.count >= 4
            }
            try eventually("the rest comes") {
                let span = try completions.poll()
                for index in span.indices {
                    #expect(span[index].isSuccess)
                    ids.append(span[index].id)
                }
                return ids.count == 8
            }
            #expect(ids.filter { $0 < 100 } == [1, 2, 3, 4])
            #expect(ids.filter { $0 >= 100 } == [100, 101, 102, 103])
            #expect(Array(region.bytes[4096..<4105]) == Array("raw bytes".utf8))
            #expect(Array(region.bytes[4196..<4204]) == Array("bytesraw".utf8))
        }

        @Test("is charged against its completion queue's capacity")
        func capacity() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let completions = try context.makeCompletionQueue(capacity: 10)
            let capacity = completions.capacity
            #expect(capacity >= 10)
            let error = refusal { () throws(VerbsError) in
                _ = try domain.makeQueuePair(
                    .reliableConnected, options: QueuePairOptions(sendDepth: capacity, receiveDepth: 1),
                    completions: completions)
            }
            #expect(error?.cause == .completionQueueCapacity)
            #expect(error?.limit == "\(capacity)")
            #expect(error?.value?.contains("\(capacity) being charged already") == true)
            #expect(completions.charged == 0, "a refused queue pair keeps no charge")
            do {
                let options = QueuePairOptions(sendDepth: capacity - 1, receiveDepth: 1)
                _ = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            }
            #expect(completions.charged == 0, "a queue pair that ends gives its charge back")
        }

        @Test("of completions grows, and never below what is charged")
        func resize() throws {
            let pair = try ConnectedPair(.reliableConnected, options: QueuePairOptions(sendDepth: 8, receiveDepth: 8))
            let before = pair.clientCompletions.capacity
            try pair.clientCompletions.resize(capacity: before * 4)
            #expect(pair.clientCompletions.capacity >= before * 4)
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.send, pair.buffer("grown"), id: 1))
            #expect(try pair.clientCompletion().id == 1)
            let error = refusal { () throws(VerbsError) in try pair.clientCompletions.resize(capacity: 15) }
            #expect(error?.cause == .completionQueueCapacity)
        }

        @Test("of completions that is too deep names the device's limit")
        func tooDeep() throws {
            let context = try TestDevice.open()
            let limit = try context.attributes.maxCompletionQueueCapacity
            guard limit < Int32.max else { return }
            let error = refusal { () throws(VerbsError) in _ = try context.makeCompletionQueue(capacity: limit + 1) }
            #expect(error?.cause == .deviceLimit)
            #expect(error?.subject == "max_cqe")
            #expect(error?.limit == "\(limit)")
        }

        @Test("pair that is too deep, or has too many elements, names the device's limit")
        func queuePairLimits() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let device = try context.attributes
            let completions = try context.makeCompletionQueue(
                capacity: min(device.maxCompletionQueueCapacity, device.maxQueuePairDepth + 64))
            if completions.capacity > device.maxQueuePairDepth {
                let options = QueuePairOptions(sendDepth: device.maxQueuePairDepth + 1, receiveDepth: 1)
                let error = refusal { () throws(VerbsError) in
                    _ = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
                }
                #expect(error?.subject == "max_send_wr")
                #expect(error?.cause == .deviceLimit)
            }
            let options = QueuePairOptions(sendDepth: 1, receiveDepth: 1, sendElements: device.maxElements + 1)
            let error = refusal { () throws(VerbsError) in
                _ = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            }
            #expect(error?.subject == "max_send_sge")
            #expect(error?.cause == .tooManyElements)
        }
    }
}

extension QueuePair {
    /// Prepares this side, lets the other connect to it, and connects to that.
    func prepareAndConnect(to peer: Endpoint, other: (Endpoint) throws -> Void) throws {
        let mine = try prepare(peer: peer.gid)
        try other(mine)
        try connect(to: peer)
    }
}
