// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Whether the application answers each message with one of its own, as request and reply do.
///
/// An acknowledgement leaves before its receive is shown, which costs a system call between the arrival and the
/// application. Where the last messages were all answered at once, the acknowledgement may wait for the answer and leave
/// with it, as the end of its burst. It leaves without it as soon as the application does anything else, or nothing.
struct AnswerHabit {
    /// Messages answered in a row before an acknowledgement is held.
    private static let streakToHold = 8

    /// Messages that ended since the receives began, and the queue pair of the last.
    private var endedCount = 0
    private var endedOn = QPN(truncating: 0)
    /// The one queue pair whose message was shown, until the application does something.
    private var shown: QPN?
    private var streak = 0
    /// The queue pair whose acknowledgement waits.
    private(set) var held: QPN?

    @inline(__always)
    mutating func messageEnded(on qpn: QPN) {
        endedCount += 1
        endedOn = qpn
    }

    /// The received packets are processed: what they completed will be shown next.
    @inline(__always)
    mutating func receivesEnded(mayHold: Bool) {
        guard endedCount > 0 else { return }
        shown = endedCount == 1 ? endedOn : nil
        if shown == nil { streak = 0 }
        held = mayHold && streak >= Self.streakToHold ? shown : nil
        endedCount = 0
    }

    /// The application posted a request.
    /// - Returns: whether an acknowledgement waited for it.
    @inline(__always)
    mutating func answered(on qpn: QPN) -> Bool {
        guard shown == qpn else { return false }
        shown = nil
        streak = min(streak + 1, Self.streakToHold)
        guard held == qpn else { return false }
        held = nil
        return true
    }

    /// The application did something else.
    /// - Returns: the queue pair whose acknowledgement waited in vain.
    @inline(__always)
    mutating func notAnswered() -> QPN? {
        guard shown != nil else { return nil }
        shown = nil
        streak = 0
        defer { held = nil }
        return held
    }
}

extension Engine {
    /// To be called when a round begins that no doorbell began: an acknowledgement that waited for one waits no longer.
    @inline(__always)
    public mutating func beginRound() {
        guard let qpn = core.habit.notAnswered(), let queuePair = unsafe queuePairs.find(qpn) else { return }
        unsafe queuePair.pointee.wantsTransmit = true
        unsafe settle(queuePair)
    }

    /// To be called after the datagrams of a round. With `mayHold` an acknowledgement may wait for the application's
    /// answer; then somebody must begin a round soon, whether the application does or not.
    @inline(__always)
    public mutating func endReceives(mayHold: Bool) { core.habit.receivesEnded(mayHold: mayHold) }

    /// Whether an acknowledgement waits for an answer.
    ///
    /// Mutating, though it changes nothing: see ``nextDeadline``.
    public var isHoldingAcknowledgement: Bool { mutating get { core.habit.held != nil } }
}
