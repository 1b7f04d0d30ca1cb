// SPDX-License-Identifier: Apache-2.0
import Verbs

// The ownership level: a post consumes a buffer, its completion gives it back.
extension Fixture {
    @inline(never)
    func sendOwned(_ operations: UInt64) throws {
        guard var buffer = pool.take() else { fail("the pool is empty") }
        var i: UInt64 = 0
        while i < operations {
            try queuePair.post(.send, buffer, id: i).orThrow()
            buffer = try reap(i)
            i += 1
        }
    }

    @inline(never)
    func receiveOwned(_ operations: UInt64) throws {
        guard var buffer = pool.take() else { fail("the pool is empty") }
        var i: UInt64 = 0
        while i < operations {
            try queuePair.receive(buffer, id: i).orThrow()
            buffer = try reap(i)
            i += 1
        }
    }

    @inline(never)
    func batchOwned(_ operations: UInt64) throws {
        var buffers = InlineArray<16, RegisteredBuffer?> { _ in pool.take() }
        var i: UInt64 = 0
        while i < operations {
            var batch = queuePair.batch()
            for k in buffers.indices {
                guard let buffer = buffers[k].take() else { fail("a buffer is missing") }
                try batch.post(.send, buffer, id: i + UInt64(k)).orThrow()
            }
            try batch.submit().orThrow()
            for k in buffers.indices { buffers[k] = try reap(i + UInt64(k)) }
            i += UInt64(batchSize)
        }
    }

    /// Takes the next completion, which must be there and of operation `i`, and its buffer.
    @inline(__always)
    private func reap(_ i: UInt64) throws -> RegisteredBuffer {
        guard let completion = try completions.next(), completion.isSuccess, completion.id == i,
            let buffer = completion.takeBuffer()
        else { fail("completion \(i) is missing") }
        return buffer
    }
}
