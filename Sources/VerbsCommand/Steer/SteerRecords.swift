// SPDX-License-Identifier: Apache-2.0
import Verbs

// What `verbs steer --json` prints, a line each: the rules, the frames, and the end.

/// A rule and where it is carried out.
struct RuleRecord: Encodable {
    struct Refusal: Encodable {
        var place: String
        var reason: String
    }

    var rule: String
    var place: String
    var takesFromStack: Bool
    /// Of the steerd that lent the socket.
    var lender: String?
    /// Why the kernel's stack has the packets too; `nil` where it does not.
    var reasonForCopies: String?
    var refusals: [Refusal]

    static func list(_ receiver: FrameReceiver) -> [String: [RuleRecord]] {
        let rules = receiver.flows.map { attached in
            let placement = attached.flow.placement
            return RuleRecord(
                rule: attached.flow.rule.description, place: placement.place.rawValue,
                takesFromStack: placement.takesFromStack, lender: placement.lender,
                reasonForCopies: placement.reasonForCopies,
                refusals: placement.refusals.map { Refusal(place: $0.place.rawValue, reason: $0.reason) })
        }
        return ["rules": rules]
    }
}

/// A frame that was received.
struct FrameRecord: Encodable {
    /// Nanoseconds since 1970.
    var time: UInt64
    var length: Int
    var tag: UInt32?
    var vlanTag: UInt16?
    var isChecksumRight: Bool
    var source: String
    var destination: String
    var etherType: UInt16
    var nextProtocol: UInt8?
    var from: String?
    var fromPort: UInt16?
    var to: String?
    var toPort: UInt16?
    var kind: String

    init(_ frame: RawSpan, _ facts: FrameDescription, _ time: UInt64) {
        let summary = FrameSummary(of: frame)
        self.time = time
        length = frame.byteCount
        tag = facts.tag
        vlanTag = facts.vlanTag
        isChecksumRight = facts.isChecksumRight
        source = "\(summary.source)"
        destination = "\(summary.destination)"
        etherType = summary.etherType
        nextProtocol = summary.nextProtocol
        from = summary.from?.address
        fromPort = summary.from?.port
        to = summary.to?.address
        toPort = summary.to?.port
        kind = summary.kind
    }
}

/// What was counted when it ended.
struct EndRecord: Encodable {
    struct Count: Encodable {
        var rule: String
        var packets: UInt64
        var bytes: UInt64
    }

    var counts: [Count] = []
    var received: Int
    var failed: Int
    var losses: [String: UInt64]

    init(_ receiver: FrameReceiver, _ received: Int, _ failed: Int) throws(VerbsError) {
        self.received = received
        self.failed = failed
        losses = Dictionary(receiver.losses.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        for attached in receiver.flows {
            let counters = try attached.flow.counters
            counts.append(
                Count(rule: attached.flow.rule.description, packets: counters.packets, bytes: counters.bytes))
        }
    }
}
