// SPDX-License-Identifier: Apache-2.0
import Testing
import Verbs

extension DeviceTests {
    @Suite("ATOMIC WRITE and FLUSH", .serialized) struct Placement {
        private static let isPosted: ConditionTrait = .enabled(
            if: TestDevice.name.hasPrefix("soft"), "work requests of the kernel's devices do not carry them")

        private func error(_ result: consuming PostResult) -> PostError? {
            switch consume result {
            case .refused(_, let error): return error
            case .posted: return nil
            case .full: return nil
            }
        }

        /// A pair whose server lets itself be flushed.
        private func flushablePair() throws -> ConnectedPair {
            let pair = try ConnectedPair(.reliableConnected)
            var attributes = QueuePairAttributes()
            attributes.access = [.remote, .flushGlobal]
            try pair.server.modify(attributes)
            return pair
        }

        @Test(
            "are refused by name where the device does not post them, and nothing is in flight",
            .enabled(if: !TestDevice.name.hasPrefix("soft"), "the software device posts them"))
        func notCarried() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 64, access: .remote)
            #expect(
                error(pair.client.post(.atomicWrite(to: region.remote), try pair.buffer("8 bytes.")))
                    == .placementNotCarried)
            #expect(pair.client.flush(region.remote) == .refused(.placementNotCarried))
            #expect(PostError.placementNotCarried.description.contains("software device"))
            #expect(pair.client.sendsInFlight == 0)
            #expect(pair.pool.available == pair.pool.count)
            expectPosted(try pair.client.post(.write(to: region.remote), pair.buffer("8 bytes.")))
            #expect(try pair.clientCompletion().status == .success)
        }

        @Test("store eight bytes at once, from a buffer, inline and in a batch", isPosted)
        func atomicWrite() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 64, access: .remote)
            expectPosted(try pair.client.post(.atomicWrite(to: region.remote), pair.buffer("a buffer"), id: 1))
            let bytes = Array("inlined.".utf8)
            let inlined = try #require(region.remote(offset: 8, length: 8))
            #expect(pair.client.post(.atomicWrite(to: inlined), inline: bytes.span.bytes, id: 2) == .posted)
            var batch = pair.client.batch()
            expectPosted(batch.post(.atomicWrite(to: region.remote[from: 16]), try pair.buffer("in batch"), id: 3))
            try batch.submit().orThrow()
            for id in 1...3 as ClosedRange<UInt64> {
                let completion = try pair.clientCompletion()
                #expect(completion.status == .success && completion.id == id)
                #expect(completion.opcode == .atomicWrite)
            }
            #expect(Array(region.bytes.prefix(25)) == Array("a bufferinlined.in batch".utf8) + [0])
        }

        @Test("need eight bytes here, and eight aligned ones there", isPosted)
        func atomicWriteRefusals() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 64, access: .remote)
            #expect(error(pair.client.post(.atomicWrite(to: region.remote), try pair.buffer("four"))) == .atomicLength)
            let short = try #require(region.remote(offset: 0, length: 4))
            #expect(error(pair.client.post(.atomicWrite(to: short), try pair.buffer("8 bytes."))) == .remoteTooShort)
            expectPosted(try pair.client.post(.atomicWrite(to: region.remote[from: 4]), pair.buffer("8 bytes.")))
            #expect(try pair.clientCompletion().status == .remoteInvalidRequest)
            #expect(region.bytes.allSatisfy { $0 == 0 })
        }

        @Test("flush a range and a whole region, behind the WRITE before", isPosted)
        func flush() throws {
            let pair = try flushablePair()
            let region = try pair.domain.makeRegion(length: 4096, access: [.remote, .flushGlobal])
            expectPosted(try pair.client.post(.write(to: region.remote), pair.buffer("flushed"), id: 1, flags: []))
            #expect(pair.client.flush(region.remote, id: 2) == .posted)
            let range = try pair.clientCompletion()
            #expect(range.status == .success && range.id == 2 && range.opcode == .flush)
            #expect(region.load(at: 0) == UInt8(ascii: "f"))
            #expect(pair.client.flushRegion(rkey: region.rkey, id: 3) == .posted)
            let whole = try pair.clientCompletion()
            #expect(whole.status == .success && whole.id == 3)
            #expect("\(whole.opcode)" == "FLUSH")
        }

        @Test("flush only what region and queue pair permit", isPosted)
        func flushRefusals() throws {
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 64, access: [.remote, .flushGlobal])
            #expect(pair.client.flush(region.remote) == .posted)
            #expect(try pair.clientCompletion().status == .remoteInvalidRequest)

            let other = try flushablePair()
            let closed = try other.domain.makeRegion(length: 64, access: .remote)
            #expect(other.client.flush(closed.remote) == .posted)
            #expect(try other.clientCompletion().status == .remoteAccessError)

            let third = try flushablePair()
            #expect(third.client.flush(closed.remote, []) == .posted)
            #expect(try third.clientCompletion().status == .localQueuePairOperationError, "no placement is asked for")
        }

        @Test("are told of in the device's attributes; persistent memory is refused by name", isPosted)
        func attributes() throws {
            let context = try TestDevice.open()
            let attributes = try context.attributes
            #expect(attributes.hasAtomicWrite && attributes.hasFlushGlobal && !attributes.hasFlushPersistent)
            let domain = try context.makeProtectionDomain()
            let error = refusal { () throws(VerbsError) in
                _ = try domain.makeRegion(length: 4096, access: [.localWrite, .flushPersistent])
            }
            #expect(error?.cause == .unsupported && error?.subject == "IBV_ACCESS_FLUSH_PERSISTENT")
        }
    }
}
