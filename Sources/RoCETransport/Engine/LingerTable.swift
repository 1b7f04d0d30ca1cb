// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What is left of a reliable queue pair that was destroyed: enough to acknowledge again what it had acknowledged.
///
/// A program that is done destroys its queue pairs at once. If the last acknowledgement was lost, its peer repeats the
/// request, and without an answer takes the success for a failure.
struct LingeringQueuePair {
    var qpn: QPN
    var remoteQPN: QPN
    /// What its service adds to the opcodes of RC.
    var opcodeBits: UInt8
    var path: TransmitPath
    /// The first PSN that was never acknowledged.
    var expectedPSN: PSN
    var msn: MSN
    /// How long to wait for a repetition after the last request.
    var patienceNanoseconds: UInt64
    /// Then it is forgotten.
    var until: Timestamp
    var isAnswerDue = false
    /// The answer that is due is the empty READ response to this PSN, not an acknowledgement of all.
    var emptyResponsePSN: PSN?
}

/// The destroyed queue pairs that may still be asked. Of fixed size: the newest push the oldest out.
@safe struct LingerTable: ~Copyable {
    private static let placeCount = 256
    /// Allocated here, freed in `deinit`; `0..<count` are in use, in no order of age.
    private let places: UnsafeMutablePointer<LingeringQueuePair>
    private var count = 0
    private var nextVictim = 0
    private var dueCount = 0

    /// Shortest and longest patience, nanoseconds: a repetition comes after the peer's timeout, which may be up to four
    /// times the one agreed on, but nobody's program should hang on that for long.
    private static let patienceMin: UInt64 = 20_000_000
    private static let patienceMax: UInt64 = 600_000_000

    init() {
        unsafe places = .allocate(capacity: Self.placeCount)
    }

    deinit { unsafe places.deallocate() }

    /// Whether an answer waits to be sent.
    var hasAnswers: Bool { dueCount > 0 }

    /// Remembers a queue pair that is being destroyed, if its peer may repeat a request.
    mutating func add(_ queuePair: borrowing QueuePair, now: Timestamp) {
        let responder = queuePair.responder
        guard queuePair.type.isReliable, responder.lastRequestAt != 0 else { return }
        let patience = min(max(queuePair.timeoutNanoseconds * 3 / 2, Self.patienceMin), Self.patienceMax)
        let until = responder.lastRequestAt + patience
        guard until > now else { return }
        let place: Int
        if count < Self.placeCount {
            place = count
            count += 1
        } else {
            place = nextVictim
            nextVictim = (nextVictim + 1) % Self.placeCount
            if unsafe places[place].isAnswerDue { dueCount -= 1 }
        }
        unsafe (places + place).initialize(
            to: LingeringQueuePair(
                qpn: queuePair.qpn, remoteQPN: queuePair.remoteQPN, opcodeBits: queuePair.opcodeBits,
                path: queuePair.path,
                expectedPSN: responder.expectedPSN, msn: responder.msn, patienceNanoseconds: patience, until: until))
    }

    /// The place of a queue pair's remains; `nil` if there are none.
    func find(_ qpn: QPN) -> Int? {
        for place in 0..<count where unsafe places[place].qpn == qpn { return place }
        return nil
    }

    /// What is at a place.
    subscript(place: Int) -> LingeringQueuePair { unsafe places[place] }

    /// The peer repeated a request: it is acknowledged again, and may come once more.
    ///
    /// - Parameter emptyResponsePSN: the PSN of an ATOMIC WRITE or FLUSH, `nil` of a SEND or WRITE. Of several that come
    ///   before an answer leaves the earliest is answered, which acknowledges what is before it; the peer, a step
    ///   further, repeats the rest.
    mutating func requestWasRepeated(at place: Int, emptyResponsePSN: PSN?, now: Timestamp) {
        if let psn = emptyResponsePSN {
            let earlier = unsafe places[place].emptyResponsePSN
            if earlier.map({ psn - $0 < 0 }) ?? true { unsafe places[place].emptyResponsePSN = psn }
        }
        unsafe places[place].until = unsafe now + places[place].patienceNanoseconds
        if unsafe !places[place].isAnswerDue {
            unsafe places[place].isAnswerDue = true
            dueCount += 1
        }
    }

    /// The next answer to send, no longer due; `nil` if there is none.
    mutating func takeAnswer() -> LingeringQueuePair? {
        guard dueCount > 0 else { return nil }
        for place in 0..<count where unsafe places[place].isAnswerDue {
            defer {
                unsafe places[place].isAnswerDue = false
                unsafe places[place].emptyResponsePSN = nil
            }
            dueCount -= 1
            return unsafe places[place]
        }
        return nil
    }

    /// Forgets what is over, and says when the last one will be.
    mutating func deadline(now: Timestamp) -> Timestamp? {
        var latest: Timestamp?
        var place = 0
        while place < count {
            if unsafe places[place].until <= now && !places[place].isAnswerDue {
                count -= 1
                unsafe places[place] = unsafe places[count]
            } else {
                latest = unsafe max(latest ?? 0, places[place].until)
                place += 1
            }
        }
        return latest
    }
}
