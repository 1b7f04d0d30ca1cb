// SPDX-License-Identifier: Apache-2.0

/// An asynchronous event of a queue pair; the numbers of `enum ibv_event_type`.
public enum QueuePairEvent: UInt8, Sendable, CaseIterable {
    /// `IBV_EVENT_QP_FATAL`: the queue pair stopped for a local reason.
    case fatal = 1
    /// `IBV_EVENT_QP_REQ_ERR`: the peer sent an invalid request.
    case requestError = 2
    /// `IBV_EVENT_QP_ACCESS_ERR`: the peer's request violated a key, a bound or a permission.
    case accessError = 3
    /// `IBV_EVENT_COMM_EST`: the first packet came while the queue pair was ready to receive, not yet to send.
    case communicationEstablished = 4
    /// `IBV_EVENT_SQ_DRAINED`
    case sendQueueDrained = 5
    /// `IBV_EVENT_QP_LAST_WQE_REACHED`: in the error state and will take nothing more from its shared receive queue.
    case lastReceiveReached = 16
    /// No event of the verbs: the first packet came on a queue pair that `Engine.watchCommunication(_:)` named, whatever
    /// its state.
    case firstPacket = 31
}

/// What the engine tells besides packets and completions. `tag` is the value the object was created with.
public enum Event: Sendable, Equatable {
    /// An armed completion queue got an entry that its arming asked for; it is no longer armed.
    case completion(tag: UInt)
    /// `IBV_EVENT_CQ_ERR`: entries were lost because the completion queue was full.
    case completionQueueError(tag: UInt)
    case queuePair(QueuePairEvent, tag: UInt)
    /// `IBV_EVENT_SRQ_LIMIT_REACHED`
    case sharedReceiveQueueLimit(tag: UInt)
}
