// SPDX-License-Identifier: Apache-2.0
import Synchronization
import VerbsABI

/// Moves a queue pair to ERR from another thread than its owner's, as long as it exists.
///
/// So that a program that waits for completions learns that its connection is over: everything posted is flushed.
@safe final class QueuePairFuse: @unchecked Sendable {  // The handle is behind a mutex.
    @safe private struct Target: @unchecked Sendable {  // The provider's calls are thread safe.
        let native: UnsafeMutablePointer<ibv_qp>
        let path: any ControlPath
    }

    private let target: Mutex<Target?>

    init(_ queuePair: borrowing QueuePair) {
        target = unsafe Mutex(Target(native: queuePair.native, path: queuePair.domain.context.path))
    }

    /// The queue pair cannot be destroyed meanwhile: ``remove()`` waits.
    func blow() {
        target.withLock { target in
            guard let target else { return }
            var attributes = ibv_qp_attr()
            attributes.qp_state = .IBV_QPS_ERR
            // A local variable, read during the call. A queue pair that cannot go to ERR has nothing in flight.
            try? unsafe target.path.modify(target.native, &attributes, mask: .IBV_QP_STATE)
        }
    }

    /// Before the queue pair ends.
    func remove() { target.withLock { $0 = nil } }
}
