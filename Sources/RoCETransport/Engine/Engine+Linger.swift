// SPDX-License-Identifier: Apache-2.0

extension Engine {
    /// Until when a device that is closed should stay to answer its peers' repeated requests; `nil` for no longer.
    public func lingerDeadline(now: Timestamp) -> Timestamp? { nil }
}

extension ReceiveQueue {
    /// Whether posted work requests are to be flushed at once, so that a post needs a doorbell.
    @inlinable package var needsDoorbell: Bool { false }
}
