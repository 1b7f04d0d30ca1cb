// SPDX-License-Identifier: Apache-2.0

/// When to learn the steering table of one address, and what the answers to the probes say. Pure: time and randomness
/// are arguments, the link does the sending.
///
///     idle ──(joined, or misdelivery passes the threshold, and the wait is over)──► due
///     due ──(the lock is ours)──► learning ──(all have answered, or the time is up)──► idle
///         └─(another has it)────► idle, due again a little later
///
/// A wrong table costs speed only: what reaches the wrong process is handed on. So everything here is best effort and
/// rate-limited: after each attempt the wait doubles, up to ``waitMaxNanoseconds``, and falls back after a quiet time.
package struct SteeringLearner: Sendable {
    /// Misdelivered runs that make the table suspect.
    package static let misdeliveryThreshold = 32
    package static let answerTimeNanoseconds: UInt64 = 50_000_000
    package static let waitMinNanoseconds: UInt64 = 20_000_000
    package static let waitMaxNanoseconds: UInt64 = 5_000_000_000
    /// Without misdelivery for this long, the wait starts from its minimum again.
    package static let quietNanoseconds: UInt64 = 10_000_000_000
    private static let unanswered: UInt8 = 0

    /// Whether probes are under way.
    package enum State: Sendable, Equatable {
        case idle
        case learning(nonce: UInt64, deadline: UInt64)
    }

    package private(set) var state = State.idle
    /// What was learnt last, in force while it is learnt again.
    package private(set) var table: [(slot: UInt8, index: UInt16)] = []
    /// Nobody learns before this time.
    private var notBefore: UInt64 = 0
    private var waitNanoseconds = Self.waitMinNanoseconds
    private var wanted: Bool
    private var misdelivered = 0
    private var lastMisdelivery: UInt64 = 0
    /// Living slots that did not answer as members of the group: what is for them cannot be steered.
    private var unsteerable = SlotSet()
    /// The slot that answered for each index probed.
    private var answers: [UInt8] = []
    private var answered = 0

    /// - Parameter joining: whether others may be there already, so that a table has to be learnt.
    package init(joining: Bool) { wanted = joining }

    /// When ``shouldBegin(now:)`` or ``isFinished(now:)`` may turn true; `UInt64.max` for not by time.
    package var deadline: UInt64 {
        if case .learning(_, let deadline) = state { return answered == answers.count ? 0 : deadline }
        return wanted ? notBefore : .max
    }

    /// A run of segments for `slot` of this host arrived here and was handed on.
    package mutating func noteMisdelivered(to slot: UInt8, now: UInt64) {
        guard !unsteerable[slot] else { return }
        if now &- lastMisdelivery > Self.quietNanoseconds { waitNanoseconds = Self.waitMinNanoseconds }
        lastMisdelivery = now
        misdelivered += 1
        if misdelivered >= Self.misdeliveryThreshold { wanted = true }
    }

    /// Somebody who is living was found, or the own socket has just joined.
    package mutating func want() { wanted = true }

    package func shouldBegin(now: UInt64) -> Bool { state == .idle && wanted && now >= notBefore }

    /// Another process is learning: what it learns serves all. Look again when it will be done.
    package mutating func deferToOther(now: UInt64) { notBefore = now + Self.answerTimeNanoseconds }

    /// Another process has asked who we are: it is about to put a new table in place.
    package mutating func noteOtherLearning() {
        guard state == .idle else { return }
        wanted = false
        misdelivered = 0
    }

    /// Nobody else is there, or the kernel has no such programs.
    package mutating func cancel(now: UInt64) {
        wanted = false
        misdelivered = 0
        wait(now: now)
    }

    /// Starts an attempt with probes for the indices `0 ..< count`.
    package mutating func begin(count: Int, nonce: UInt64, now: UInt64) {
        answers = [UInt8](repeating: Self.unanswered, count: count)
        answered = 0
        state = .learning(nonce: nonce, deadline: now + Self.answerTimeNanoseconds)
    }

    /// An answer; ignored unless it is to this attempt.
    package mutating func record(index: UInt16, slot: UInt8, nonce: UInt64) {
        guard case .learning(nonce, _) = state, Int(index) < answers.count, SlotClaim.slots.contains(slot),
            answers[Int(index)] == Self.unanswered
        else { return }
        answers[Int(index)] = slot
        answered += 1
    }

    package func isFinished(now: UInt64) -> Bool {
        guard case .learning(_, let deadline) = state else { return false }
        return answered == answers.count || now >= deadline
    }

    /// Ends the attempt and gives the table. A probe past the end of the group goes by hash to a socket that has a
    /// lower index, so of several indices that one slot answered for the lowest is right.
    package mutating func finish(living: SlotSet, now: UInt64) -> [(slot: UInt8, index: UInt16)] {
        var seen = SlotSet()
        table = []
        for (index, slot) in answers.enumerated() where slot != Self.unanswered && !seen[slot] {
            seen[slot] = true
            table.append((slot, UInt16(index)))
        }
        unsteerable = SlotSet()
        for slot in SlotClaim.slots where living[slot] && !seen[slot] { unsteerable[slot] = true }
        // One that did not answer may have been busy: ask again later, unless it never has.
        wanted = !unsteerable.isEmpty && waitNanoseconds < Self.waitMaxNanoseconds
        state = .idle
        misdelivered = 0
        wait(now: now)
        return table
    }

    private mutating func wait(now: UInt64) {
        notBefore = now + waitNanoseconds
        waitNanoseconds = min(waitNanoseconds * 2, Self.waitMaxNanoseconds)
    }
}
