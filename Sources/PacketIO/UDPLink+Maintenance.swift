// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// What is due by time: steering, frames held back, captures, ports to try again.
extension UDPLink {
    private static var captureFlushNanoseconds: UInt64 { 100_000_000 }

    /// Does what is due and returns when to call again. Two comparisons when nothing is.
    @inline(__always)
    package mutating func maintain(now: UInt64) -> UInt64 {
        if !isMaintenanceDue, now < nextMaintenance { return nextMaintenance }
        return maintainAll(now: now)
    }

    /// When ``maintain(now:)`` has something to do: 0 for now. What is received and sent may bring it forward, so ask
    /// after that. Mutating, because the compiler copies the whole link to borrow it.
    package var maintenanceDeadline: UInt64 {
        mutating get { isMaintenanceDue ? 0 : nextMaintenance }
    }

    private mutating func maintainAll(now: UInt64) -> UInt64 {
        isMaintenanceDue = false
        var next = UInt64.max
        if var stage = faults.take() {
            next = min(next, stage.release(through: &self, now: now))
            faults = consume stage
        }
        if !backlog.isEmpty {
            flushBacklog(now: now)
            if !backlog.isEmpty { next = min(next, now + HandOverQueue.retryNanoseconds) }
        }
        next = min(next, maintainHostPeers(now: now))
        next = min(next, maintainFrames(now: now))
        next = min(next, flushCapture(now: now))
        next = min(next, retryBindings(now: now))
        for index in 0..<Self.addressesMax where unsafe addresses[index].receiverNumber != nil {
            next = min(next, maintainSteering(index, now: now))
        }
        nextMaintenance = next
        return next
    }

    private mutating func flushCapture(now: UInt64) -> UInt64 {
        guard capture != nil else { return .max }
        if now >= captureFlushAt {
            if capture?.flush() == false { counters.captureErrors += 1 }
            captureFlushAt = now + Self.captureFlushNanoseconds
        }
        return captureFlushAt
    }

    private mutating func retryBindings(now: UInt64) -> UInt64 {
        var isServed = false
        for index in 0..<Self.addressesMax {
            guard let state = address(at: index), case .served = state.reception else { continue }
            isServed = true
            if now >= retryBindAt { retryBinding(index) }
        }
        guard isServed else { return .max }
        if now >= retryBindAt { retryBindAt = now + Self.retryBindNanoseconds }
        return retryBindAt
    }
}
