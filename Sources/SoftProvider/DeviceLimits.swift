// SPDX-License-Identifier: Apache-2.0

/// What one open software device grants at most. The engine sizes its tables by it once, at open; passing a limit is
/// ENOMEM with the limit's name.
enum DeviceLimits {
    static let queuePairs = 16_384
    static let workRequests = 32_768
    static let scatterGatherEntries = 32
    static let inlineBytes = 1024
    static let completionQueues = 16_384
    static let completionQueueEntries = 4_194_304
    static let sharedReceiveQueues = 1024
    static let memoryRegions = 65_536
    static let memoryWindows = 65_536
    static let protectionDomains = 65_536
    static let addressHandles = 65_536
    /// READs and atomics outstanding on a queue pair, in each direction.
    static let readAtomicOperations = 16
    /// 2^31 bytes, the longest message of the specification.
    static let messageBytes: UInt32 = 1 << 31
    static let multicastGroups = 256
    /// Values of one `ibv_counters`.
    static let counterPoints: UInt32 = 256
    /// One allocation of device memory, which is the processor's here.
    static let deviceMemoryBytes = 1 << 20
}
