// SPDX-License-Identifier: Apache-2.0

/// What an engine counts. Every packet that is not acted on is in exactly one of the `dropped…` counters.
public struct EngineCounters: Sendable, BitwiseCopyable {
    /// Datagrams given to the engine.
    public var packetsReceived: UInt64 = 0
    /// Frames written to a transmit queue.
    public var packetsSent: UInt64 = 0
    /// Not well formed.
    public var droppedMalformed: UInt64 = 0
    /// The ICRC is wrong.
    public var droppedICRC: UInt64 = 0
    /// No such queue pair.
    public var droppedUnknownQueuePair: UInt64 = 0
    /// The packet is of another transport service than its queue pair, or the queue pair's state forbids it.
    public var droppedState: UInt64 = 0
    /// From or to an address that is not the connection's.
    public var droppedAddress: UInt64 = 0
    /// P_Key or Q_Key.
    public var droppedKey: UInt64 = 0
    /// UC, UD: no receive was posted, or it was too short.
    public var droppedNoReceive: UInt64 = 0
    /// Outside the sequence, where that is no reason to answer: ghosts, repetitions, the rest of a broken message.
    public var droppedSequence: UInt64 = 0
    /// UC: the request is in error.
    public var droppedRequest: UInt64 = 0
    /// Requests that were already executed.
    public var duplicateRequests: UInt64 = 0
    /// Requests behind a gap that were kept until it is filled; those that had to be given up are dropped later.
    public var earlyRequests: UInt64 = 0
    /// Responses behind a gap that were kept until it is filled; those that had to be given up are dropped later.
    public var earlyResponses: UInt64 = 0
    /// NAKs for a sequence error, sent and received.
    public var sequenceErrorsSent: UInt64 = 0
    /// See ``sequenceErrorsSent``.
    public var sequenceErrorsReceived: UInt64 = 0
    /// RNR NAKs.
    public var receiverNotReadySent: UInt64 = 0
    /// See ``receiverNotReadySent``.
    public var receiverNotReadyReceived: UInt64 = 0
    /// NAKs that end a connection.
    public var refusalsSent: UInt64 = 0
    /// See ``refusalsSent``.
    public var refusalsReceived: UInt64 = 0
    /// READ and atomic responses that were lost, as the next response showed.
    public var responsesLost: UInt64 = 0
    /// Expired acknowledgement timers.
    public var timeouts: UInt64 = 0
    /// Ends of connections that agreed on selective repetition.
    public var selectiveConnections: UInt64 = 0
    /// NAKs that named what is missing, so that only that was sent again.
    public var selectiveRepetitions: UInt64 = 0
    /// Packets sent again.
    public var retransmissions: UInt64 = 0
    /// Completions lost because a completion queue was full.
    public var completionsLost: UInt64 = 0
    /// Congestion notifications received.
    public var congestionNotifications: UInt64 = 0
    /// Congestion notifications sent.
    public var congestionNotificationsSent: UInt64 = 0
    /// Packets of connections received with the mark of congestion.
    public var congestionMarks: UInt64 = 0
    /// Management datagrams that were not sent: too many waited, or the address that they were to leave from went.
    public var managementDropped: UInt64 = 0

    /// All zero.
    public init() {}

    /// The counters by name, for people and for `ControlPath.counters()`.
    public var named: [(name: String, value: UInt64)] {
        [
            ("packets_received", packetsReceived), ("packets_sent", packetsSent),
            ("dropped_malformed", droppedMalformed), ("dropped_icrc", droppedICRC),
            ("dropped_unknown_queue_pair", droppedUnknownQueuePair), ("dropped_state", droppedState),
            ("dropped_address", droppedAddress), ("dropped_key", droppedKey),
            ("dropped_no_receive", droppedNoReceive), ("dropped_sequence", droppedSequence),
            ("dropped_request", droppedRequest), ("duplicate_requests", duplicateRequests),
            ("early_requests", earlyRequests), ("early_responses", earlyResponses),
            ("sequence_errors_sent", sequenceErrorsSent), ("sequence_errors_received", sequenceErrorsReceived),
            ("receiver_not_ready_sent", receiverNotReadySent),
            ("receiver_not_ready_received", receiverNotReadyReceived), ("refusals_sent", refusalsSent),
            ("refusals_received", refusalsReceived), ("responses_lost", responsesLost), ("timeouts", timeouts),
            ("selective_connections", selectiveConnections),
            ("selective_repetitions", selectiveRepetitions),
            ("retransmissions", retransmissions), ("completions_lost", completionsLost),
            ("congestion_notifications", congestionNotifications),
            ("congestion_notifications_sent", congestionNotificationsSent),
            ("congestion_marks", congestionMarks), ("management_dropped", managementDropped),
        ]
    }
}
