// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    @Suite("a datagram queue pair", .serialized) struct Datagrams {
        @Test("delivers a message behind the routing header, with the sender's number")
        func send() throws {
            let pair = try ConnectedPair(.unreliableDatagram)
            let destination = try pair.client.destination(of: pair.serverEndpoint)
            expectPosted(try pair.server.receive(pair.buffer(), id: 1))
            expectPosted(try pair.client.post(.send, pair.buffer("datagram"), to: destination, id: 2))
            let sent = try pair.clientCompletion()
            #expect(sent.status == .success && sent.id == 2)
            let received = try pair.serverCompletion()
            #expect(received.status == .success && received.id == 1)
            #expect(received.byteCount == 48)
            #expect(received.hasGRH == true)
            #expect(received.sourceQueuePair == pair.client.number)
            #expect(received.takeBuffer()?.array.suffix(8) == Array("datagram".utf8)[...])
        }

        @Test("delivers 32 bits, and inline bytes")
        func immediateAndInline() throws {
            let pair = try ConnectedPair(.unreliableDatagram)
            let destination = try pair.client.destination(of: pair.serverEndpoint)
            for _ in 0..<2 { expectPosted(try pair.server.receive(pair.buffer())) }
            expectPosted(try pair.client.post(.sendWithImmediate(5), pair.buffer("a"), to: destination))
            let bytes = Array("inline".utf8)
            #expect(pair.client.post(.send, inline: bytes.span.bytes, to: destination) == .posted)
            #expect(try pair.serverCompletion().immediate == 5)
            let second = try pair.serverCompletion()
            #expect(second.immediate == nil)
            #expect(second.takeBuffer()?.array.suffix(6) == bytes[...])
        }

        @Test("drops what has a wrong key")
        func wrongKey() throws {
            let pair = try ConnectedPair(.unreliableDatagram)
            let right = try pair.client.destination(of: pair.serverEndpoint)
            let wrong = DatagramDestination(right.handle, queuePair: right.queuePair, qkey: right.qkey ^ 1)
            for id in 0..<2 { expectPosted(try pair.server.receive(pair.buffer(), id: UInt64(id))) }
            expectPosted(try pair.client.post(.send, pair.buffer("wrong"), to: wrong))
            expectPosted(try pair.client.post(.send, pair.buffer("right"), to: right))
            let received = try pair.serverCompletion()
            #expect(received.id == 0)
            #expect(received.takeBuffer()?.array.suffix(5) == Array("right".utf8)[...])
            #expect(pair.server.receivesInFlight == 1)
        }

        @Test("keeps the handles of datagrams in flight alive")
        func handles() throws {
            let pair = try ConnectedPair(.unreliableDatagram, options: QueuePairOptions(sendDepth: 4, receiveDepth: 60))
            var arrived = 0
            for round in 0..<300 {
                if pair.server.receivesInFlight == 0 {
                    for _ in 0..<30 { expectPosted(try pair.server.receive(pair.buffer(count: 128))) }
                }
                do {
                    // Let go before the completion is seen.
                    let destination = try pair.client.destination(of: pair.serverEndpoint)
                    expectPosted(try pair.client.post(.send, pair.buffer("\(round)"), to: destination))
                }
                #expect(try pair.clientCompletion().status == .success)
                #expect(try pair.serverCompletion().status == .success)
                arrived += 1
            }
            #expect(arrived == 300)
        }

        @Test("has no way to a GID index that is not there")
        func badIndex() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let port = try context.port(1)
            guard port.gidTableLength < 255, let gid = port.gids.first?.gid else { return }
            let path = PathAttributes(gid: gid, sourceGIDIndex: UInt8(port.gidTableLength))
            let error = refusal { () throws(VerbsError) in _ = try domain.makeAddressHandle(path) }
            #expect(error?.subject == "AV")
        }
    }

    @Suite(
        "a shared receive queue", .serialized, .enabled(if: TestDevice.hasSharedReceiveQueues, "the device has no SRQ"))
    struct Shared {
        @Test("feeds several queue pairs, and tells when it runs low")
        func feeds() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 32, size: 256)
            let clientCompletions = try context.makeCompletionQueue(capacity: 64)
            let serverCompletions = try context.makeCompletionQueue(capacity: 64)
            let shared = try domain.makeSharedReceiveQueue(depth: 8)
            let options = QueuePairOptions(sendDepth: 8, receiveDepth: 8)
            let clients = try Pairs(2) {
                try domain.makeQueuePair(.reliableConnected, options: options, completions: clientCompletions)
            }
            let servers = try Pairs(2) {
                try domain.makeQueuePair(
                    .reliableConnected, options: options, sendCompletions: serverCompletions,
                    receiveCompletions: serverCompletions, sharedReceives: shared)
            }
            #expect(serverCompletions.charged == 8 + 8 + 8, "two send queues and, once, the shared queue")
            for index in 0..<2 {
                let endpoint = try clients[index].prepare()
                try servers[index].prepareAndConnect(to: endpoint) { try clients[index].connect(to: $0) }
            }
            for id in 0..<8 { expectPosted(shared.receive(try unwrap(pool.take()), id: UInt64(id))) }
            let ninth = shared.receive(try unwrap(pool.take())).isPosted()
            #expect(!ninth, "a ninth receive was taken by a queue of eight")
            try shared.setLimit(6)
            #expect(try shared.limit == 6)
            for round in 0..<3 {
                for index in 0..<2 {
                    var buffer = try unwrap(pool.take())
                    buffer.fill(from: [UInt8(round), UInt8(index)])
                    expectPosted(clients[index].post(.send, buffer))
                    try eventually("it is sent") { try clientCompletions.next()?.status == .success }
                    var seen = false
                    try eventually("it is received") {
                        guard let completion = try serverCompletions.next() else { return false }
                        #expect(completion.status == .success)
                        #expect(completion.id < 8)
                        #expect(completion.queuePair == servers[index].number)
                        #expect(completion.takeBuffer()?.array == [UInt8(round), UInt8(index)])
                        seen = true
                        return seen
                    }
                }
            }
            #expect(shared.receivesInFlight == 2)
            #expect(shared.unresolvedIDs.count == 2)
            let event = try #require(try context.nextEvent(timeout: TestDevice.patience))
            #expect(event.kind == .sharedReceiveQueueLimit)
            #expect(try shared.limit == 0)
            expectPosted(shared.receive(try unwrap(pool.take())))
        }

        @Test("tells of its limit in the stream of events too", .timeLimit(.minutes(10)))
        func limitInTheStream() async throws {
            let context = try TestDevice.open()
            let events = context.events
            let shared = try oneMessageBelowTheLimit(context)
            for await event in events {
                #expect(event.kind == .sharedReceiveQueueLimit)
                break
            }
            // Whatever of an object's events has not been read when it is destroyed is forgotten with it.
            withExtendedLifetime(shared) {}
        }

        private func oneMessageBelowTheLimit(_ context: Context) throws -> SharedReceiveQueue {
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 3, size: 256)
            let completions = try context.makeCompletionQueue(capacity: 64)
            let shared = try domain.makeSharedReceiveQueue(depth: 4)
            let options = QueuePairOptions(sendDepth: 4, receiveDepth: 4)
            let client = try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
            let server = try domain.makeQueuePair(
                .reliableConnected, options: options, sendCompletions: completions, receiveCompletions: completions,
                sharedReceives: shared)
            let endpoint = try client.prepare()
            try server.prepareAndConnect(to: endpoint) { try client.connect(to: $0) }
            for _ in 0..<2 { expectPosted(shared.receive(try unwrap(pool.take()))) }
            try shared.setLimit(2)
            expectPosted(client.post(.send, try unwrap(pool.take())))
            var seen = 0
            try eventually("the message is sent and received") {
                if let completion = try completions.next() {
                    #expect(completion.status == .success)
                    seen += 1
                }
                return seen == 2
            }
            return shared
        }

        @Test("is the only place for receives of its queue pairs")
        func noReceivesOfItsOwn() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 1, size: 64)
            let completions = try context.makeCompletionQueue(capacity: 64)
            let shared = try domain.makeSharedReceiveQueue(depth: 4)
            let queuePair = try domain.makeQueuePair(
                .reliableConnected, options: QueuePairOptions(sendDepth: 4), sendCompletions: completions,
                receiveCompletions: completions, sharedReceives: shared)
            _ = try queuePair.prepare()
            switch queuePair.receive(try unwrap(pool.take())) {
            case .refused(_, let error): #expect(error == .wrongTransport)
            default: Issue.record("a receive went beside the shared queue")
            }
        }

        @Test("gives its buffers back when it goes, used or not")
        func returnsBuffers() throws {
            let context = try TestDevice.open()
            let domain = try context.makeProtectionDomain()
            let pool = try domain.makeBufferPool(count: 4, size: 64)
            do {
                let shared = try domain.makeSharedReceiveQueue(depth: 4)
                for _ in 0..<4 { expectPosted(shared.receive(try unwrap(pool.take()))) }
                #expect(pool.available == 0)
            }
            #expect(pool.available == 4)
        }
    }

    @Suite("a memory window", .serialized) struct Windows {
        @Test(
            "of type 2 opens part of a region until its key is invalidated",
            .enabled(if: TestDevice.hasWindows2, "the device has no windows of type 2"))
        func type2() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 4096, access: [.remote, .windowBind])
            let window = try pair.domain.makeMemoryWindow(.type2)
            let key = window.nextKey()
            #expect(
                pair.server.bind(window, rkey: key, to: region, offset: 1024, length: 512, access: .remoteWrite, id: 4)
                    == .posted)
            let bound = try pair.serverCompletion()
            #expect(bound.status == .success && bound.id == 4)
            let remote = RemoteMemory(address: region.remote.address + 1024, rkey: key, length: 512)
            expectPosted(try pair.client.post(.write(to: remote), pair.buffer("through the window")))
            #expect(try pair.clientCompletion().status == .success)
            #expect(Array(region.bytes[1024..<1042]) == Array("through the window".utf8))
            #expect(pair.server.invalidate(rkey: key, id: 5) == .posted)
            let closed = try pair.serverCompletion()
            #expect(closed.status == .success && closed.id == 5)
            expectPosted(try pair.client.post(.write(to: remote), pair.buffer("too late")))
            #expect(try pair.clientCompletion().status == .remoteAccessError)
        }

        @Test(
            "of type 2 has bounds of its own",
            .enabled(if: TestDevice.hasWindows2, "the device has no windows of type 2"))
        func bounds() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 4096, access: [.remote, .windowBind])
            let window = try pair.domain.makeMemoryWindow(.type2)
            let key = window.nextKey()
            #expect(
                pair.server.bind(window, rkey: key, to: region, offset: 1024, length: 512, access: .remoteWrite)
                    == .posted)
            #expect(try pair.serverCompletion().status == .success)
            let beyond = RemoteMemory(address: region.remote.address + 1024 + 505, rkey: key, length: 8)
            expectPosted(try pair.client.post(.write(to: beyond), pair.buffer(count: 8)))
            // rxe checks the bounds of the region under the window only.
            expect(try pair.clientCompletion().status, .remoteAccessError, onRXE: [.success])
        }

        @Test(
            "of type 2 is closed by the peer's send with invalidate",
            .enabled(
                if: TestDevice.hasWindows2 && TestDevice.hasInvalidate,
                "the device has no windows of type 2, or no invalidation"))
        func sendWithInvalidate() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 4096, access: [.remote, .windowBind])
            let window = try pair.domain.makeMemoryWindow(.type2)
            let key = window.nextKey()
            #expect(
                pair.server.bind(window, rkey: key, to: region, offset: 0, length: 512, access: .remoteWrite) == .posted
            )
            #expect(try pair.serverCompletion().status == .success)
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.sendWithInvalidate(rkey: key), pair.buffer("done")))
            #expect(try pair.clientCompletion().status == .success)
            let received = try pair.serverCompletion()
            #expect(received.status == .success)
            if TestDevice.isRXE {
                // rxe sets the kernel's bit for it (4), which is not the one of the C header (8).
                #expect(received.invalidatedKey == nil)
            } else {
                #expect(received.invalidatedKey == key)
            }
            #expect(received.takeBuffer()?.text == "done")
            let remote = RemoteMemory(address: region.remote.address, rkey: key, length: 512)
            expectPosted(try pair.client.post(.write(to: remote), pair.buffer("too late")))
            #expect(try pair.clientCompletion().status == .remoteAccessError)
        }

        @Test(
            "of type 1 is bound, and bound again under another key",
            .enabled(if: TestDevice.hasWindows1, "the device has no windows of type 1"))
        func type1() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 4096, access: [.remote, .windowBind])
            let window = try pair.domain.makeMemoryWindow(.type1)
            #expect(
                pair.server.bindType1(window, to: region, offset: 0, length: 64, access: .remoteWrite, id: 1) == .posted
            )
            #expect(try pair.serverCompletion().status == .success)
            let first = RemoteMemory(address: region.remote.address, rkey: window.rkey, length: 64)
            expectPosted(try pair.client.post(.write(to: first), pair.buffer("first")))
            #expect(try pair.clientCompletion().status == .success)
            #expect(
                pair.server.bindType1(window, to: region, offset: 64, length: 64, access: .remoteWrite, id: 2)
                    == .posted)
            #expect(try pair.serverCompletion().status == .success)
            #expect(window.rkey != first.rkey)
            let second = RemoteMemory(address: region.remote.address + 64, rkey: window.rkey, length: 64)
            expectPosted(try pair.client.post(.write(to: second), pair.buffer("second")))
            #expect(try pair.clientCompletion().status == .success)
            #expect(Array(region.bytes[64..<70]) == Array("second".utf8))
            expectPosted(try pair.client.post(.write(to: first), pair.buffer("stale")))
            #expect(try pair.clientCompletion().status == .remoteAccessError)
        }
    }

    @Suite("waiting", .serialized) struct Waiting {
        @Test("for completions wakes at one, and ends with the time")
        func wait() throws {
            let context = try TestDevice.open()
            let channel = try context.makeCompletionChannel()
            let pair = try ConnectedPair(.reliableConnected, channel: channel, context: context)
            #expect(try pair.serverCompletions.wait(timeout: .milliseconds(20)) == false)
            for round in 0..<3 {
                expectPosted(try pair.server.receive(pair.buffer()))
                expectPosted(try pair.client.post(.send, pair.buffer("\(round)")))
                #expect(try pair.serverCompletions.wait(timeout: TestDevice.patience))
                #expect(try pair.serverCompletion().takeBuffer()?.text == "\(round)")
                #expect(try pair.clientCompletion().status == .success)
            }
        }

        @Test("for solicited completions sleeps through the others")
        func solicited() throws {
            let context = try TestDevice.open()
            let channel = try context.makeCompletionChannel()
            let pair = try ConnectedPair(.reliableConnected, channel: channel, context: context)
            for _ in 0..<2 { expectPosted(try pair.server.receive(pair.buffer())) }
            try pair.serverCompletions.arm(solicitedOnly: true)
            expectPosted(try pair.client.post(.send, pair.buffer("quiet")))
            #expect(try pair.clientCompletion().status == .success)
            #expect(try channel.wait(timeout: .milliseconds(100)) == nil)
            expectPosted(try pair.client.post(.send, pair.buffer("loud"), flags: [.signaled, .solicited]))
            #expect(try channel.wait(timeout: TestDevice.patience) == pair.serverCompletions.id)
            #expect(try pair.serverCompletion().takeBuffer()?.text == "quiet")
            #expect(try pair.serverCompletion().takeBuffer()?.text == "loud")
        }

        @Test("is told apart on a channel of two queues")
        func channelOfTwo() throws {
            let context = try TestDevice.open()
            let channel = try context.makeCompletionChannel()
            let first = try ConnectedPair(.reliableConnected, channel: channel, context: context)
            let second = try ConnectedPair(.reliableConnected, channel: channel, context: context)
            try first.serverCompletions.arm()
            try second.serverCompletions.arm()
            expectPosted(try second.server.receive(second.buffer()))
            expectPosted(try second.client.post(.send, second.buffer("2")))
            #expect(try channel.wait(timeout: TestDevice.patience) == second.serverCompletions.id)
            #expect(try second.serverCompletion().status == .success)
            #expect(try channel.wait(timeout: .zero) == nil)
        }

        @Test("without a channel is refused by name")
        func noChannel() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let error = refusal { () throws(VerbsError) in _ = try pair.clientCompletions.wait(timeout: .zero) }
            #expect(error?.subject == "channel")
        }

        @Test("for asynchronous events ends with the time")
        func noEvent() throws {
            #expect(try TestDevice.open().nextEvent(timeout: .milliseconds(10)) == nil)
        }
    }

    @Suite("the device", .serialized) struct TheDevice {
        @Test("tells its attributes, and an active port with a GID and the reason for it")
        func attributes() throws {
            let context = try TestDevice.open()
            #expect(context.device.name == TestDevice.name)
            let device = try context.attributes
            #expect(device.portCount >= 1)
            #expect(device.maxQueuePairs > 0 && device.maxQueuePairDepth > 0 && device.maxElements > 0)
            #expect(device.nodeGUID == context.device.guid)
            let port = try context.port(1)
            #expect(port.state == .active)
            #expect(port.activeMTU <= port.maxMTU)
            #expect(!port.gids.isEmpty)
            let choice = try #require(port.preferredGID())
            #expect(port.gids.contains(choice.entry))
            #expect(!choice.reason.isEmpty)
            #expect(try context.partitionKey() == 0xFFFF)
        }

        @Test("has no port that is not there")
        func badPort() throws {
            let error = refusal { () throws(VerbsError) in _ = try TestDevice.open().port(99) }
            #expect(error?.subject == "port")
        }

        @Test("is among all devices, under its name and its interface's")
        func discovery() throws {
            let device = try #require(Device.all().first { $0.name == TestDevice.name })
            #expect(try Device.named(device.name).guid == device.guid)
            let error = refusal { () throws(VerbsError) in _ = try Device.named("no such device") }
            #expect(error?.cause == .noDevice)
            #expect(error?.limit?.contains(TestDevice.name) == true)
        }

        @Test("registers the caller's memory, at an address of the caller's choice")
        func callersMemory() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 4096)
            defer { memory.deallocate() }
            memory.initializeMemory(as: UInt8.self, repeating: 1)
            let region = try pair.domain.register(memory, access: .remote, ioAddress: 0x1000)
            #expect(region.remote.address == 0x1000)
            expectPosted(try pair.client.post(.write(to: region.remote[from: 16]), pair.buffer("moved")))
            #expect(try pair.clientCompletion().status == .success)
            #expect(Array(memory[15..<22]) == [1] + Array("moved".utf8) + [1])
        }

        @Test("refuses to register remote writing without local writing, and says so")
        func accessRule() throws {
            let domain = try TestDevice.open().makeProtectionDomain()
            let error = refusal { () throws(VerbsError) in _ = try domain.makeRegion(length: 4096, access: .remoteWrite)
            }
            #expect(error?.subject == "access")
        }

        @Test("refuses a dmabuf that is none")
        func badDmabuf() throws {
            let domain = try TestDevice.open().makeProtectionDomain()
            refusal { () throws(VerbsError) in _ = try domain.registerDmabuf(descriptor: -1, length: 4096) }
        }

        @Test("registers huge pages, or says how to get some")
        func hugePages() throws {
            let domain = try TestDevice.open().makeProtectionDomain()
            do {
                let region = try domain.makeRegion(length: 4096, pages: .huge)
                #expect(region.length == 4096)
            } catch {
                #expect(error.subject == "huge pages")
                #expect(error.remedy.contains("nr_hugepages"))
            }
            #expect(try domain.makeRegion(length: 4096, pages: .transparentHuge).load(at: 4095) == 0)
        }
    }
}

/// Queue pairs in a collection: each in an object of its own, as they cannot be copied.
final class Pairs {
    final class Element {
        let queuePair: QueuePair
        init(_ queuePair: consuming QueuePair) { self.queuePair = queuePair }
    }

    private let elements: [Element]

    init(_ count: Int, _ make: () throws -> QueuePair) throws {
        elements = try (0..<count).map { _ in Element(try make()) }
    }

    subscript(index: Int) -> QueuePair {
        _read { yield elements[index].queuePair }
    }
}
