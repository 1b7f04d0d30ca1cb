// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// What the engine knows about a work request in flight, apart from the slot that the application can still write to.
struct SendProgress {
    /// The PSN of its first packet.
    var firstPSN: PSN
    /// The PSNs it takes: packets sent, or READ responses. 0 for an operation without packets.
    var packetCount: UInt32
    /// Bytes of the message.
    var byteLength: UInt32
    var operation: SendOperation
    var flags: SendFlags
    /// The status of a failure on our side, or 0. It completes when all earlier requests have.
    var failure: UInt8 = 0

    var endPSN: PSN { firstPSN + Int(packetCount) }
}

/// A READ or atomic request whose response is not complete. Its bounds stay when it is sent again, because the responder
/// answers a repetition only from what it saved for the original.
struct ReadProgress {
    enum Kind: UInt8 {
        case read
        case atomic
        /// ATOMIC WRITE, FLUSH: answered by an empty READ response.
        case empty
    }
    var firstPSN: PSN
    var endPSN: PSN
    var kind: Kind
}

/// The sending half of a queue pair.
///
/// ```
///        oldest          next          started        posted
///   ───────┼───────────────┼──────────────┼──────────────┼──────▶ send queue index
///  complete │ unacknowledged │ to send again │  to send     │
///
///         unackedPSN       nextPSN        endPSN
///   ───────┼───────────────┼──────────────┼─────────────────────▶ PSN
/// ```
/// Going back means `next`, `nextPSN` return to `oldest`, `unackedPSN`; everything is then built again from the slots.
@safe struct Requester {
    // Send queue indices.
    var oldest: UInt32 = 0
    var next: UInt32 = 0
    var started: UInt32 = 0

    // PSNs.
    var unackedPSN = PSN(truncating: 0)
    var nextPSN = PSN(truncating: 0)
    /// One past the last that was ever sent.
    var endPSN = PSN(truncating: 0)

    /// One entry for each slot of the send queue, allocated with the queue pair.
    let progress: UnsafeMutablePointer<SendProgress>
    let progressMask: UInt32

    /// READs and atomics in flight, allocated with the queue pair: `readHead..<readTail`, those before `readCursor` are
    /// sent since the last going back.
    let reads: UnsafeMutablePointer<ReadProgress>
    let readMask: UInt32
    var readHead: UInt32 = 0
    var readCursor: UInt32 = 0
    var readTail: UInt32 = 0

    var window = CongestionWindow()
    /// A loss at `unackedPSN` made us go back already. What the peer sent before it knew of that still arrives, and says
    /// the same again: the rest of a READ response behind the gap, a repeated NAK (a responder sends one for a gap).
    var hasAnsweredLoss = false
    /// The peer has everything from `skipStart` to before `skipEnd`, which is not sent again.
    var isSkipping = false
    var skipStart = PSN(truncating: 0)
    var skipEnd = PSN(truncating: 0)
    /// Since it last went back, something was left out, or is to be.
    var isSelective = false
    /// Responses that came before the one that is due.
    var early = EarlyPackets()
    /// Packets since an acknowledgement was last asked for.
    var unrequested: Int32 = 0

    // Retries.
    var retriesLeft: UInt8 = 0
    var rnrRetriesLeft: UInt8 = 0
    /// Timeouts in a row; each doubles the time, up to 4 times, as the specification lets.
    var timeoutsInRow: UInt8 = 0
    /// An RNR NAK's time is running.
    var isWaitingForReceiver = false
    /// When the acknowledgement timer expires; `.max` for never.
    var timeoutAt = Timestamp.max
    /// The window lets the next packet leave only later, and the timer is to say when.
    var isPausing = false

    init(capacity: Int, readCapacity: Int) {
        let slots = RingCapacity.rounded(capacity)
        let readSlots = RingCapacity.rounded(readCapacity)
        unsafe progress = .allocate(capacity: slots)
        unsafe progress.initialize(
            repeating: SendProgress(
                firstPSN: PSN(truncating: 0), packetCount: 0, byteLength: 0, operation: .send, flags: []),
            count: slots)
        progressMask = UInt32(slots - 1)
        unsafe reads = .allocate(capacity: readSlots)
        unsafe reads.initialize(
            repeating: ReadProgress(firstPSN: PSN(truncating: 0), endPSN: PSN(truncating: 0), kind: .read),
            count: readSlots)
        readMask = UInt32(readSlots - 1)
    }

    func deallocate() {
        unsafe progress.deallocate()
        unsafe reads.deallocate()
    }

    subscript(progress index: UInt32) -> SendProgress {
        @inline(__always) get { unsafe progress[Int(index & progressMask)] }
        @inline(__always) nonmutating set { unsafe progress[Int(index & progressMask)] = newValue }
    }

    subscript(read index: UInt32) -> ReadProgress {
        @inline(__always) get { unsafe reads[Int(index & readMask)] }
        @inline(__always) nonmutating set { unsafe reads[Int(index & readMask)] = newValue }
    }

    /// Packets sent, or READ responses expected, past the last acknowledged.
    var inFlight: Int { nextPSN - unackedPSN }

    /// The oldest READ or atomic that is not complete.
    var oldestRead: ReadProgress? { readHead == readTail ? nil : self[read: readHead] }

    /// The PSN that the next READ or atomic response must have.
    func expectedPSN(of read: ReadProgress) -> PSN {
        unackedPSN - read.firstPSN > 0 ? unackedPSN : read.firstPSN
    }

    /// Everything is to be sent again from the oldest unacknowledged packet.
    mutating func goBack() {
        nextPSN = unackedPSN
        next = oldest
        readCursor = readHead
        unrequested = 0
        isSkipping = false
        isSelective = false
        window.forgetTiming()
    }

    /// The first `count` PSNs are to be sent again, and then what comes behind those that were sent already.
    mutating func goBack(for count: Int) {
        let end = nextPSN
        goBack()
        guard count > 0, count < end - unackedPSN else { return }
        isSkipping = true
        isSelective = true
        skipStart = unackedPSN + count
        skipEnd = end
    }

    /// Leaves out what the peer has, once what it misses is sent.
    mutating func skipReceived() {
        guard nextPSN - skipStart >= 0 else { return }
        isSkipping = false
        if skipEnd - nextPSN > 0 { nextPSN = skipEnd }
        while next != started, self[progress: next].failure == 0, nextPSN - self[progress: next].endPSN >= 0 {
            next &+= 1
        }
        while readCursor != readTail, nextPSN - self[read: readCursor].endPSN >= 0 { readCursor &+= 1 }
    }
}
