// SPDX-License-Identifier: Apache-2.0
import Verbs

/// The memory of a bandwidth run, allocated before it begins. The run works on the pointers, as long as this lives.
@safe final class BandwidthMemory {
    /// Completions taken in one poll.
    private static let pollCount = 16

    let times: BandwidthTimes
    /// One for each queue pair.
    let lanes: UnsafeMutablePointer<BandwidthRun.Lane>
    let storage: UnsafeMutableBufferPointer<WorkCompletion>
    /// One for each queue pair.
    let checkedMessages: UnsafeMutablePointer<Int>
    private let laneCount: Int

    init(timeCount: Int, lanes initial: [BandwidthRun.Lane]) {
        times = BandwidthTimes(count: timeCount)
        laneCount = initial.count
        unsafe lanes = .allocate(capacity: initial.count)
        for (index, lane) in initial.enumerated() { unsafe (lanes + index).initialize(to: lane) }
        unsafe storage = .allocate(capacity: Self.pollCount)
        unsafe storage.initialize(repeating: WorkCompletion())
        unsafe checkedMessages = .allocate(capacity: initial.count)
        unsafe checkedMessages.initialize(repeating: 0, count: initial.count)
    }

    deinit {
        unsafe storage.deinitialize().deallocate()
        unsafe lanes.deinitialize(count: laneCount).deallocate()
        unsafe checkedMessages.deallocate()
    }
}
