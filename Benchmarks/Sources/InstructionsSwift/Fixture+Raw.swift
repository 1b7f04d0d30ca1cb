// SPDX-License-Identifier: Apache-2.0
import Verbs

// The raw level: addresses and keys; the memory is the region's, which nobody else touches.
extension Fixture {
    @inline(never)
    func sendRaw(_ operations: UInt64) throws {
        var storage = InlineArray<1, WorkCompletion>(repeating: WorkCompletion())
        var i: UInt64 = 0
        while i < operations {
            try unsafe queuePair.post(.send, from: message(i), id: i).orThrow()
            try reap(&storage, first: i)
            i += 1
        }
    }

    @inline(never)
    func receiveRaw(_ operations: UInt64) throws {
        var storage = InlineArray<1, WorkCompletion>(repeating: WorkCompletion())
        var i: UInt64 = 0
        while i < operations {
            try unsafe queuePair.receive(into: message(i), id: i).orThrow()
            try reap(&storage, first: i)
            i += 1
        }
    }

    @inline(never)
    func batchRaw(_ operations: UInt64) throws {
        var storage = InlineArray<16, WorkCompletion>(repeating: WorkCompletion())
        var i: UInt64 = 0
        while i < operations {
            var batch = queuePair.batch()
            var k: UInt64 = 0
            while k < UInt64(batchSize) {
                try unsafe batch.post(.send, from: message(i + k), id: i + k).orThrow()
                k += 1
            }
            try batch.submit().orThrow()
            try reap(&storage, first: i)
            i += UInt64(batchSize)
        }
    }

    /// Polls as many completions as the storage holds, all of which must be there.
    @inline(__always)
    private func reap<let count: Int>(_ storage: inout InlineArray<count, WorkCompletion>, first: UInt64) throws {
        var span = storage.mutableSpan
        guard try completions.poll(into: &span) == count else { fail("completions are missing") }
        for k in 0..<count where !span[k].isSuccess || span[k].id != first + UInt64(k) {
            fail("completion \(span[k])")
        }
    }
}
