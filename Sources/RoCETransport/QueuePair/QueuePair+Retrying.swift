// SPDX-License-Identifier: Apache-2.0
import RoCEWire

// Timers and repetition of RC. A retry is spent on a timeout, on a NAK for the sequence and on a lost response; all are
// given back by any progress. Receiver-not-ready has a budget of its own, in which 7 is without limit.
extension QueuePair {
    /// Starts the acknowledgement timer anew, or stops it if nothing is unacknowledged.
    mutating func startTimer(_ now: Timestamp) {
        if timeoutNanoseconds != 0, requester.unackedPSN != requester.endPSN {
            requester.timeoutAt = now &+ timeoutNanoseconds << UInt64(min(requester.timeoutsInRow, 2))
        } else {
            requester.timeoutAt = .max
        }
        deadline = requester.isPausing ? min(requester.timeoutAt, requester.window.pauseEnd) : requester.timeoutAt
    }

    /// The window lets the next packet leave only later.
    mutating func pause() {
        requester.isPausing = true
        // What is not in flight cannot be late.
        if requester.inFlight == 0 { requester.timeoutAt = .max }
        deadline = min(requester.timeoutAt, requester.window.pauseEnd)
    }

    /// The deadline has come.
    mutating func timerFired(_ core: inout EngineCore) {
        deadline = .max
        guard type.isReliable, state == .readyToSend || state == .sendQueueDrained else { return }
        if requester.isWaitingForReceiver {
            requester.isWaitingForReceiver = false
            startTimer(core.now)
            wantsTransmit = true
            return
        }
        if requester.isPausing {
            requester.isPausing = false
            wantsTransmit = true
        }
        guard core.now >= requester.timeoutAt else {
            deadline = requester.timeoutAt
            return
        }
        guard requester.unackedPSN != requester.endPSN else { return }
        core.counters.timeouts &+= 1
        requester.timeoutsInRow = min(requester.timeoutsInRow + 1, 2)
        requester.hasAnsweredLoss = false
        requester.window.noteTimeout(now: core.now)
        retry(0, &core)
    }

    /// Spends a retry and sends again from the oldest unacknowledged packet: `count` PSNs, or with 0 everything.
    mutating func retry(_ count: Int, _ core: inout EngineCore) {
        guard requester.oldest != requester.started else { return }
        guard requester.retriesLeft > 0 else {
            failOldestSend(.retriesExceeded, &core)
            return
        }
        requester.retriesLeft -= 1
        requester.goBack(for: count)
        if requester.isSkipping { core.counters.selectiveRepetitions &+= 1 }
        startTimer(core.now)
        wantsTransmit = true
    }

    /// The packet at `unackedPSN`, or its response, was lost: a NAK for the sequence or a later response shows it. With a
    /// count, only so many were.
    mutating func retryAfterLoss(of count: Int, _ core: inout EngineCore) {
        guard state == .readyToSend || state == .sendQueueDrained else { return }
        // Nothing was sent since the last going back, or that was for this very packet. And rxe sends a NAK for the
        // packets behind one that met an RNR NAK, whose time must go on.
        guard requester.inFlight > 0, !requester.hasAnsweredLoss, !requester.isWaitingForReceiver else { return }
        requester.window.noteLoss(endPSN: requester.endPSN, now: core.now)
        requester.hasAnsweredLoss = true
        retry(count, &core)
    }

    /// The peer has no receive posted: wait as long as it says, and send again.
    mutating func waitForReceiver(_ timer: RNRTimer, _ core: inout EngineCore) {
        guard state == .readyToSend || state == .sendQueueDrained, requester.oldest != requester.started,
            !requester.isWaitingForReceiver
        else { return }
        // 7 is without limit.
        if attributes.rnrRetry != 7 {
            guard requester.rnrRetriesLeft > 0 else {
                failOldestSend(.receiverNotReadyRetriesExceeded, &core)
                return
            }
            requester.rnrRetriesLeft -= 1
        }
        requester.goBack()
        requester.isWaitingForReceiver = true
        requester.isPausing = false
        requester.timeoutAt = .max
        deadline = core.now &+ timer.nanoseconds
    }
}
