// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Glibc
import PacketIO
import Synchronization

/// Builds a classifier's tables in a thread of its own, while frames are looked up in those that there are.
final class ClassifierRebuild: Sendable {
    private let rebuilt = Mutex<FlowClassifier.Rebuilt?>(nil)
    private let isDone = Atomic<Bool>(false)

    /// - Throws: EAGAIN where there is no thread to be had.
    init(_ job: FlowClassifier.RebuildJob) throws(PacketIOError) {
        // The thread has what it needs, so it may outlive the device.
        pthread_detach(
            try startThread { [self] in
                let tables = job.run()
                rebuilt.withLock { $0 = tables }
                isDone.store(true, ordering: .releasing)
            })
    }

    /// The tables, once, when they are done.
    func take() -> FlowClassifier.Rebuilt? {
        guard isDone.load(ordering: .acquiring) else { return nil }
        return rebuilt.withLock { $0.take() }
    }
}
