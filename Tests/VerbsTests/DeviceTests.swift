// SPDX-License-Identifier: Apache-2.0
import Testing
import Verbs

/// Every verb and object on one device, whatever its kind: see ``TestDevice``.
@Suite("On a device", .serialized) enum DeviceTests {}

extension DeviceTests {
    @Suite("a connected queue pair", .serialized) struct Connected {
        @Test("delivers a message and gives both buffers back", arguments: connectedTransports)
        func send(_ transport: Transport) throws {
            let pair = try ConnectedPair(transport)
            expectPosted(try pair.server.receive(pair.buffer(), id: 7))
            expectPosted(try pair.client.post(.send, pair.buffer("Hello, verbs"), id: 3))
            let sent = try pair.clientCompletion()
            #expect(sent.status == .success)
            #expect(sent.id == 3)
            #expect(sent.opcode == .send)
            #expect(sent.queuePair == pair.client.number)
            #expect(sent.takeBuffer()?.text == "Hello, verbs")
            let received = try pair.serverCompletion()
            #expect(received.status == .success)
            #expect(received.id == 7)
            #expect(received.opcode == .receive)
            #expect(received.byteCount == 12)
            #expect(received.immediate == nil)
            #expect(received.queuePair == pair.server.number)
            #expect(received.takeBuffer()?.text == "Hello, verbs")
        }

        @Test("delivers 32 bits with a message", arguments: connectedTransports)
        func sendWithImmediate(_ transport: Transport) throws {
            let pair = try ConnectedPair(transport)
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.sendWithImmediate(0x0102_0304), pair.buffer("x")))
            #expect(try pair.clientCompletion().status == .success)
            let received = try pair.serverCompletion()
            #expect(received.status == .success)
            #expect(received.immediate == 0x0102_0304)
            #expect(received.takeBuffer()?.text == "x")
        }

        @Test("delivers a message without bytes")
        func sendNothing() throws {
            let pair = try ConnectedPair(.reliableConnected)
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.send, pair.buffer(count: 0)))
            #expect(try pair.clientCompletion().status == .success)
            let received = try pair.serverCompletion()
            #expect(received.status == .success)
            #expect(received.byteCount == 0)
            #expect(received.takeBuffer()?.count == 0)
        }

        @Test("carries messages of many packets at every path MTU", arguments: MTU.allCases)
        func everyMTU(_ mtu: MTU) throws {
            let context = try TestDevice.open()
            guard try mtu <= context.port(1).activeMTU else { return }
            var connection = ConnectionOptions()
            connection.mtu = mtu
            let pair = try ConnectedPair(.reliableConnected, connection: connection, context: context)
            for count in [1, mtu.byteCount - 1, mtu.byteCount, mtu.byteCount + 1, 3 * mtu.byteCount, 16384] {
                expectPosted(try pair.server.receive(pair.buffer()))
                var outgoing = try pair.buffer()
                let pattern = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ count) }
                outgoing.fill(from: pattern)
                expectPosted(pair.client.post(.send, outgoing))
                #expect(try pair.clientCompletion().status == .success)
                let received = try pair.serverCompletion()
                #expect(received.byteCount == count)
                #expect(received.takeBuffer()?.array == pattern)
            }
        }

        @Test("writes the peer's memory without its doing", arguments: connectedTransports)
        func write(_ transport: Transport) throws {
            let pair = try ConnectedPair(transport)
            let target = try pair.domain.makeRegion(length: 4096, access: .remote)
            let remote = try #require(target.remote(offset: 100, length: 50))
            expectPosted(try pair.client.post(.write(to: remote), pair.buffer("written")))
            let completion = try pair.clientCompletion()
            #expect(completion.status == .success)
            #expect(completion.opcode == .write)
            try eventually("the bytes arrive") { target.load(at: 106) == UInt8(ascii: "n") }
            let bytes = Array(target.bytes)
            #expect(Array(bytes[100..<107]) == Array("written".utf8))
            #expect(bytes[..<100].allSatisfy { $0 == 0 } && bytes[107...].allSatisfy { $0 == 0 })
        }

        @Test(
            "writes with immediate, which consumes a receive and leaves its buffer alone",
            arguments: connectedTransports)
        func writeWithImmediate(_ transport: Transport) throws {
            let pair = try ConnectedPair(transport)
            let target = try pair.domain.makeRegion(length: 4096, access: .remote)
            expectPosted(try pair.server.receive(pair.buffer("untouched"), id: 9))
            expectPosted(try pair.client.post(.writeWithImmediate(to: target.remote, 77), pair.buffer("abc")))
            #expect(try pair.clientCompletion().status == .success)
            let received = try pair.serverCompletion()
            #expect(received.status == .success)
            #expect(received.opcode == .receiveOfWrite)
            #expect(received.immediate == 77)
            #expect(received.id == 9)
            #expect(received.byteCount == 3)
            var buffer = try unwrap(received.takeBuffer())
            #expect(buffer.count == 0)
            buffer.count = 9
            #expect(buffer.text == "untouched")
            #expect(Array(target.bytes.prefix(3)) == Array("abc".utf8))
        }

        @Test("reads the peer's memory")
        func read() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let source = try pair.domain.makeRegion(length: 16384, access: [.localWrite, .remoteRead])
            for index in 0..<16384 { source.bytes[index] = UInt8(truncatingIfNeeded: index / 7) }
            let remote = try #require(source.remote(offset: 3, length: 10000))
            expectPosted(try pair.client.post(.read(from: remote), pair.buffer(count: 10000)))
            let completion = try pair.clientCompletion()
            #expect(completion.status == .success)
            #expect(completion.opcode == .read)
            #expect(completion.takeBuffer()?.array == (3..<10003).map { UInt8(truncatingIfNeeded: $0 / 7) })
        }

        @Test(
            "compares and swaps, and adds, and returns what was there",
            .enabled(if: TestDevice.hasAtomics, "the device has no atomics"))
        func atomics() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let target = try pair.domain.makeRegion(length: 64, access: .remote)
            let word = try #require(target.remote(offset: 8, length: 8))
            target.bytes.storeBytes(of: 40, toByteOffset: 8, as: UInt64.self)
            func run(_ operation: SendOperation) throws -> UInt64? {
                expectPosted(try pair.client.post(operation, pair.buffer(count: 8)))
                let completion = try pair.clientCompletion()
                #expect(completion.status == .success)
                return completion.takeBuffer()?.load(as: UInt64.self)
            }
            #expect(try run(.fetchAndAdd(at: word, 2)) == 40)
            #expect(target.load64(at: 8) == 42)
            #expect(try run(.compareAndSwap(at: word, expected: 1, desired: 2)) == 42)
            #expect(target.load64(at: 8) == 42)
            #expect(try run(.compareAndSwap(at: word, expected: 42, desired: .max)) == 42)
            #expect(target.load64(at: 8) == .max)
            #expect(try run(.fetchAndAdd(at: word, 3)) == .max)
            #expect(target.load64(at: 8) == 2)
            #expect(target.load64(at: 0) == 0 && target.load64(at: 16) == 0)
        }

        @Test("copies inline bytes during the post", arguments: connectedTransports)
        func inline(_ transport: Transport) throws {
            let pair = try ConnectedPair(transport)
            try #require(pair.client.options.maxInline >= 64)
            let target = try pair.domain.makeRegion(length: 64, access: .remote)
            expectPosted(try pair.server.receive(pair.buffer()))
            let tooLong = [UInt8](repeating: 0, count: pair.client.options.maxInline + 1)
            #expect(pair.client.post(.send, inline: tooLong.span.bytes) == .refused(.inlineTooLong))
            do {
                var bytes = Array("inline send".utf8)
                #expect(pair.client.post(.send, inline: bytes.span.bytes, id: 5) == .posted)
                bytes = Array("inline write".utf8)
                #expect(pair.client.post(.write(to: target.remote), inline: bytes.span.bytes, id: 6) == .posted)
                bytes = []
            }
            let first = try pair.clientCompletion()
            #expect(first.status == .success && first.id == 5)
            #expect(hasBuffer(first) == false)
            let second = try pair.clientCompletion()
            #expect(second.status == .success && second.id == 6)
            #expect(try pair.serverCompletion().takeBuffer()?.text == "inline send")
            try eventually("the bytes arrive") { target.load(at: 11) == UInt8(ascii: "e") }
            #expect(Array(target.bytes.prefix(12)) == Array("inline write".utf8))
        }

        @Test("gathers a send and scatters a receive")
        func lists() throws {
            let options = QueuePairOptions(sendElements: 3, receiveElements: 3)
            let pair = try ConnectedPair(.reliableConnected, options: options)
            var receive = try pair.buffer(count: 4)
            receive.append(try pair.buffer(count: 6))
            receive.append(try pair.buffer(count: 100))
            expectPosted(pair.server.receive(receive))
            var send = try pair.buffer("one ")
            send.append(try pair.buffer("two "))
            send.append(try pair.buffer("three"))
            #expect(send.totalCount == 13)
            expectPosted(pair.client.post(.send, send))
            var sent = try unwrap(pair.clientCompletion().takeBuffer())
            #expect(sent.text == "one ")
            var rest = try unwrap(sent.takeRest())
            #expect(rest.text == "two ")
            #expect(rest.takeRest()?.text == "three")
            var received = try unwrap(pair.serverCompletion().takeBuffer())
            #expect(received.text == "one ")
            var second = try unwrap(received.takeRest())
            #expect(second.text == "two th")
            #expect(second.takeRest()?.text == "ree")
        }

        @Test("refuses a list that is too long, and gives it back")
        func listTooLong() throws {
            let pair = try ConnectedPair(.reliableConnected)
            var list = try pair.buffer("a")
            list.append(try pair.buffer("b"))
            switch pair.client.post(.send, list) {
            case .refused(let buffer, let error):
                #expect(error == .tooManyElements)
                #expect(buffer.totalCount == 2)
            default: Issue.record("a list of two was taken")
            }
            #expect(pair.client.sendsInFlight == 0)
        }

        @Test("takes fenced sends after reads")
        func fence() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let memory = try pair.domain.makeRegion(length: 4096, access: .remote)
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.read(from: memory.remote), pair.buffer(count: 4096), id: 1))
            expectPosted(try pair.client.post(.send, pair.buffer("after"), id: 2, flags: [.signaled, .fenced]))
            #expect(try pair.clientCompletion().id == 1)
            #expect(try pair.clientCompletion().id == 2)
            #expect(try pair.serverCompletion().takeBuffer()?.text == "after")
        }

        @Test("reports its attributes as they were set")
        func query() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let attributes = try pair.client.queryAttributes()
            #expect(attributes.state == .readyToSend)
            #expect(attributes.destination == pair.server.number)
            #expect(attributes.receivePSN == pair.serverEndpoint.psn)
            #expect(attributes.sendPSN == pair.clientEndpoint.psn)
            #expect(attributes.path?.gid == pair.serverEndpoint.gid)
            #expect(attributes.retryCount == 7)
            #expect(attributes.rnrRetry == 7)
            #expect(attributes.minRNRTimer == 12)
            #expect(attributes.timeout == 14)
            #expect(attributes.port == 1)
            #expect(attributes.pathMTU == min(pair.serverEndpoint.mtu, pair.clientEndpoint.mtu))
        }
    }

    static let connectedTransports: [Transport] = [.reliableConnected, .unreliableConnected]
}
