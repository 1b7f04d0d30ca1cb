// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// A READ or atomic that was executed, kept so that a repetition can be answered (IBTA: responder resources).
struct SavedResponse {
    enum Kind: UInt8 {
        case read
        case atomic
        /// ATOMIC WRITE, FLUSH: an empty READ response.
        case empty
    }
    var kind: Kind
    /// Its response, or the rest of one, is still to be sent.
    var isPending = false
    /// What is pending is a repetition.
    var isReplay = false
    var firstPSN: PSN
    var endPSN: PSN
    /// READ: the key, first address and bytes of the request.
    var rkey: UInt32
    var address: UInt64
    var byteLength: UInt32
    /// Of the request that is being answered, which may ask for a part: its first PSN, address and bytes.
    var answerPSN: PSN
    var answerAddress: UInt64
    var answerLength: UInt32
    /// The next packet to send.
    var nextPSN: PSN
    /// The message sequence number when it was executed.
    var msn: MSN
    /// READ: whose the memory is.
    var protectionDomain: UInt32
    /// Atomic: the value before.
    var original: UInt64
}

/// The receiving half of a queue pair.
@safe struct Responder {
    /// The message that a FIRST opened and no LAST has closed yet.
    enum Message: UInt8 {
        case none
        case send
        case write
        /// UC: something of the message was lost or wrong, the rest is dropped.
        case broken
    }

    var expectedPSN = PSN(truncating: 0)
    var msn = MSN(truncating: 0)
    var message = Message.none

    // The receive work request of the message, a copy.
    var hasReceive = false
    var receiveID: UInt64 = 0
    var receiveCount = 0
    /// Bytes that the list can hold.
    var receiveCapacity: UInt64 = 0
    /// Room for one list, allocated with the queue pair.
    let list: UnsafeMutablePointer<ScatterGatherEntry>
    let listCapacity: Int
    /// Bytes of the message so far.
    var received: UInt64 = 0

    // The WRITE in progress: its RETH.
    var writeAddress: UInt64 = 0
    var writeKey: UInt32 = 0
    var writeLength: UInt32 = 0

    /// After a NAK for the sequence or an RNR NAK: silent until the expected packet comes.
    var isSilent = false
    /// It was an RNR NAK.
    var isReceiverMissing = false
    /// Requests that came before the one that is expected.
    var early = EarlyPackets()
    /// Nothing from `acknowledgementEnd` on is acknowledged yet, though it was executed: see `QueuePair+EarlyRequests`.
    var isAcknowledgementLimited = false
    var acknowledgementEnd = PSN(truncating: 0)
    /// Messages that ended before it, or fewer.
    var acknowledgementMSN = MSN(truncating: 0)
    /// An acknowledgement of everything before `expectedPSN` is due.
    var isAcknowledgementDue = false
    /// A NAK is due; it follows all pending responses.
    var refusal: Syndrome?
    var refusalPSN = PSN(truncating: 0)
    /// A packet came with the mark of congestion, and the sender is to be told.
    var isCongestionDue = false
    /// When it may be told again: at most every 50 µs, as hardware does (DCQCN's notification point).
    var congestionPauseEnd: Timestamp = 0
    /// The queue pair is in error, but the refusal that tells the peer is not sent yet.
    var isDraining = false
    /// When the last request came that was executed, or had been before; 0 for never.
    var lastRequestAt: Timestamp = 0

    /// READs and atomics saved, allocated with the queue pair: `savedHead..<savedTail`.
    let saved: UnsafeMutablePointer<SavedResponse>
    let savedMask: UInt32
    var savedHead: UInt32 = 0
    var savedTail: UInt32 = 0
    var pendingCount = 0

    init(scatterGatherMax: Int, readCapacity: Int) {
        listCapacity = max(scatterGatherMax, 1)
        unsafe list = .allocate(capacity: listCapacity)
        unsafe list.initialize(repeating: ScatterGatherEntry(address: 0, length: 0, lkey: 0), count: listCapacity)
        let slots = RingCapacity.rounded(readCapacity)
        unsafe saved = .allocate(capacity: slots)
        let zero = PSN(truncating: 0)
        unsafe saved.initialize(
            repeating: SavedResponse(
                kind: .read, firstPSN: zero, endPSN: zero, rkey: 0, address: 0, byteLength: 0, answerPSN: zero,
                answerAddress: 0, answerLength: 0, nextPSN: zero, msn: MSN(truncating: 0),
                protectionDomain: 0, original: 0),
            count: slots)
        savedMask = UInt32(slots - 1)
    }

    func deallocate() {
        unsafe list.deallocate()
        unsafe saved.deallocate()
    }

    subscript(saved index: UInt32) -> SavedResponse {
        @inline(__always) get { unsafe saved[Int(index & savedMask)] }
        @inline(__always) nonmutating set { unsafe saved[Int(index & savedMask)] = newValue }
    }

    func receiveList(protectionDomain: UInt32) -> ScatterGatherList {
        unsafe ScatterGatherList(list, count: receiveCount, protectionDomain: protectionDomain)
    }

    /// Nothing to send any more, and nothing remembered to answer repetitions.
    mutating func forgetResponses() {
        savedHead = 0
        savedTail = 0
        pendingCount = 0
        refusal = nil
        isAcknowledgementDue = false
        isAcknowledgementLimited = false
        isReceiverMissing = false
        isCongestionDue = false
        isDraining = false
    }
}
