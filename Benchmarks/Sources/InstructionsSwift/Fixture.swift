// SPDX-License-Identifier: Apache-2.0
import Glibc
import Verbs

let batchSize = 16
let messageSize = 64

/// Ends the program: a benchmark that did not do its work has no figure.
func fail(_ what: String) -> Never {
    print("instructions-swift: \(what)")
    exit(1)
}

/// One queue pair on the counting device, with a completion queue and a region.
struct Fixture: ~Copyable {
    let completions: CompletionQueue
    let queuePair: QueuePair
    let region: MemoryRegion
    let pool: BufferPool

    init() throws(VerbsError) {
        let context = try Device.named("counting0").open()
        let domain = try context.makeProtectionDomain()
        let completions = try context.makeCompletionQueue(capacity: 4 * batchSize)
        let queuePair = try domain.makeQueuePair(
            .reliableConnected, options: QueuePairOptions(sendDepth: 2 * batchSize, receiveDepth: 2 * batchSize),
            completions: completions)
        let region = try domain.makeRegion(length: 4096)
        let pool = try domain.makeBufferPool(count: batchSize, size: messageSize)
        // The provider only counts, and takes any peer.
        try queuePair.connect(to: try queuePair.prepare())
        self.completions = completions
        self.queuePair = queuePair
        self.region = region
        self.pool = pool
    }

    /// The message of operation `i`: 64 bytes of the region, a different place each time.
    @inline(__always)
    func message(_ i: UInt64) -> LocalMemory {
        let messages = UInt64(4096 / messageSize)
        return LocalMemory(
            address: region.ioAddress + i % messages * UInt64(messageSize), length: UInt32(messageSize), lkey: 0x1234)
    }
}
