// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    @Suite("a failed request", .serialized) struct Failures {
        /// Patience with a peer that does not answer, in few and short tries.
        static var impatient: ConnectionOptions {
            var options = ConnectionOptions()
            options.timeout = 10
            options.retryCount = 1
            options.rnrRetry = 1
            options.minRNRTimer = 1
            return options
        }

        @Test("with a wrong remote key ends in a remote access error, and what follows is flushed")
        func wrongKey() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let target = try pair.domain.makeRegion(length: 4096, access: .remote)
            let wrong = RemoteMemory(address: target.remote.address, rkey: target.rkey ^ 0x00AB_CD00, length: 4096)
            expectPosted(try pair.client.post(.write(to: wrong), pair.buffer(count: 64), id: 1))
            let first = try pair.clientCompletion()
            #expect(first.status == .remoteAccessError)
            #expect(first.id == 1)
            #expect(hasBuffer(first) == true)
            expectPosted(try pair.client.post(.write(to: target.remote), pair.buffer(count: 64), id: 2))
            let second = try pair.clientCompletion()
            #expect(second.status == .flushed)
            #expect(second.id == 2)
            #expect(try pair.client.queryAttributes().state == .error)
            #expect(target.bytes.allSatisfy { $0 == 0 })
        }

        @Test("outside the region ends in a remote access error", arguments: [(4090, 16), (-8, 16), (4096, 1)])
        func outside(_ offset: Int, _ count: Int) throws {
            let pair = try ConnectedPair(.reliableConnected)
            let target = try pair.domain.makeRegion(length: 4096, access: .remote)
            let address = target.remote.address &+ UInt64(bitPattern: Int64(offset))
            let remote = RemoteMemory(address: address, rkey: target.rkey, length: UInt64(count))
            expectPosted(try pair.client.post(.write(to: remote), pair.buffer(count: count)))
            #expect(try pair.clientCompletion().status == .remoteAccessError)
        }

        @Test("that the region does not allow ends in a remote access error")
        func notAllowed() throws {
            for (access, operation) in [
                ([.localWrite, .remoteWrite] as AccessFlags, { .read(from: $0) } as (RemoteMemory) -> SendOperation),
                ([.localWrite, .remoteRead], { .write(to: $0) }),
            ] {
                let pair = try ConnectedPair(.reliableConnected)
                let target = try pair.domain.makeRegion(length: 4096, access: access)
                expectPosted(try pair.client.post(operation(target.remote), pair.buffer(count: 8)))
                #expect(try pair.clientCompletion().status == .remoteAccessError)
            }
        }

        @Test("with a wrong local key ends in a local protection error")
        func wrongLocalKey() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 4096)
            let wrong = LocalMemory(address: region.local().address, length: 64, lkey: region.lkey ^ 0x00AB_CD00)
            expectPosted(try pair.server.receive(pair.buffer()))
            #expect(pair.client.post(.send, from: wrong, id: 1) == .posted)
            let status = try pair.clientCompletion().status
            // rxe of 6.1 names the operation, rxe of 6.12 flushes even the culprit.
            expect(status, .localProtectionError, onRXE: [.localQueuePairOperationError, .flushed])
        }

        @Test("longer than the receive ends in errors of both sides")
        func receiveTooShort() throws {
            let pair = try ConnectedPair(.reliableConnected)
            expectPosted(try pair.server.receive(pair.buffer(count: 10), id: 4))
            expectPosted(try pair.client.post(.send, pair.buffer(count: 100), id: 5))
            let sent = try pair.clientCompletion()
            // rxe finds out when it copies, and calls it an operation that failed.
            expect(sent.status, .remoteInvalidRequest, onRXE: [.remoteOperationError])
            #expect(sent.id == 5)
            let received = try pair.serverCompletion()
            expect(received.status, .localLengthError, onRXE: [.localQueuePairOperationError])
            #expect(received.id == 4)
            #expect(received.opcode.isReceive)
        }

        @Test("to a peer without receives ends when the retries do")
        func receiverNotReady() throws {
            let pair = try ConnectedPair(.reliableConnected, connection: Self.impatient)
            expectPosted(try pair.client.post(.send, pair.buffer("x")))
            #expect(try pair.clientCompletion().status == .rnrRetryExceeded)
        }

        @Test("to nobody ends when the retries do")
        func nobody() throws {
            let pair = try ConnectedPair(.reliableConnected, connects: false)
            var gone = pair.serverEndpoint
            // A queue pair number that is not in use: the peer's own is at INIT and takes no packets either.
            gone.queuePair = pair.serverEndpoint.queuePair
            try pair.client.connect(to: gone, options: Self.impatient)
            expectPosted(try pair.client.post(.send, pair.buffer("x"), id: 1))
            expectPosted(try pair.client.post(.send, pair.buffer("y"), id: 2))
            let first = try pair.clientCompletion()
            #expect(first.status == .retryExceeded)
            #expect(first.id == 1)
            let second = try pair.clientCompletion()
            #expect(second.status == .flushed)
            #expect(second.id == 2)
        }

        @Test("is refused by the library where it cannot succeed, and the buffer comes back")
        func refusedEarly() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let target = try pair.domain.makeRegion(length: 64, access: .remote)
            func error(_ result: consuming PostResult) -> PostError? {
                switch consume result {
                case .refused(_, let error): return error
                case .posted: return nil
                case .full: return nil
                }
            }
            #expect(error(pair.client.post(.write(to: target.remote), try pair.buffer(count: 65))) == .remoteTooShort)
            #expect(
                error(pair.client.post(.fetchAndAdd(at: target.remote, 1), try pair.buffer(count: 4))) == .atomicLength)
            #expect(pair.pool.available == pair.pool.count)
            #expect(pair.client.sendsInFlight == 0)
        }

        @Test("posted before RTS is refused by name")
        func notReady() throws {
            let pair = try ConnectedPair(.reliableConnected, connects: false)
            switch try pair.client.post(.send, pair.buffer("too early")) {
            case .posted: Issue.record("a send was taken at INIT")
            case .full: Issue.record("an empty queue is not full")
            case .refused(let buffer, let error):
                #expect(buffer.text == "too early")
                #expect(error.description.contains("state"))
            }
        }
    }

    @Suite("a refused state change", .serialized) struct Transitions {
        func fresh() throws -> (Context, ProtectionDomain) {
            let context = try TestDevice.open()
            return (context, try context.makeProtectionDomain())
        }

        @Test("names the attribute that is missing")
        func missing() throws {
            let (context, domain) = try fresh()
            let completions = try context.makeCompletionQueue(capacity: 256)
            let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
            var attributes = QueuePairAttributes(state: .initialized)
            attributes.port = 1
            attributes.pkeyIndex = 0
            let error = refusal { () throws(VerbsError) in try queuePair.modify(attributes) }
            #expect(error?.cause == .missingAttribute)
            #expect(error?.subject == "ACCESS_FLAGS")
            #expect(error?.value == "RC RESET to INIT")
        }

        @Test("names the attribute that does not belong")
        func extra() throws {
            let (context, domain) = try fresh()
            let completions = try context.makeCompletionQueue(capacity: 256)
            let queuePair = try domain.makeQueuePair(.unreliableConnected, completions: completions)
            var attributes = QueuePairAttributes(state: .initialized)
            attributes.port = 1
            attributes.pkeyIndex = 0
            attributes.access = []
            attributes.retryCount = 1
            let error = refusal { () throws(VerbsError) in try queuePair.modify(attributes) }
            #expect(error?.cause == .invalidAttribute)
            #expect(error?.subject == "RETRY_CNT")
        }

        @Test("names the step that is not there")
        func noSuchStep() throws {
            let (context, domain) = try fresh()
            let completions = try context.makeCompletionQueue(capacity: 256)
            let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
            let error = refusal { () throws(VerbsError) in
                try queuePair.modify(QueuePairAttributes(state: .readyToSend))
            }
            #expect(error?.cause == .invalidTransition)
            #expect(error?.value == "RC RESET to RTS")
            #expect(queuePair.state == .reset)
        }

        @Test("names the value that is out of range")
        func badValue() throws {
            let (context, domain) = try fresh()
            let completions = try context.makeCompletionQueue(capacity: 256)
            let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
            var attributes = QueuePairAttributes(state: .initialized)
            attributes.port = 200
            attributes.pkeyIndex = 0
            attributes.access = []
            let error = refusal { () throws(VerbsError) in try queuePair.modify(attributes) }
            #expect(error?.subject == "PORT")
            #expect(error?.value == "200")
        }

        @Test("tells that UD is started and not connected")
        func datagramConnect() throws {
            let pair = try ConnectedPair(.unreliableDatagram)
            let error = refusal { () throws(VerbsError) in try pair.client.connect(to: pair.serverEndpoint) }
            #expect(error?.remedy.contains("started") == true)
        }
    }
}
