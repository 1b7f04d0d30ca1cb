// SPDX-License-Identifier: Apache-2.0
@_exported import FlowSteering
import VerbsABI

/// A flow rule that is carried out: frames that match it go to a raw packet queue pair.
///
/// It ends when it is let go, and at the latest with its queue pair: from then on no frame is delivered for it. The corresponding C
/// type is `struct ibv_flow`.
public struct Flow: ~Copyable {
    private let core: FlowCore

    init(_ core: FlowCore) { self.core = core }

    deinit { try? core.end() }

    /// What it was created with.
    public var rule: FlowRule { core.rule }

    /// Where the rule is carried out now, and why nowhere higher. Another rule on the same interface may move it.
    public var placement: FlowPlacement { core.placement }

    /// Packets and bytes that matched. Always there on the software device; on a verbs device the rule must count
    /// (``FlowRule/counts``). The corresponding C function is `ibv_read_counters`.
    public var counters: FlowCounters {
        get throws(VerbsError) { try core.counters() }
    }

    /// Ends it now, and tells if the device failed to. Letting go of it does the same. The corresponding C function is
    /// `ibv_destroy_flow`.
    public consuming func detach() throws(VerbsError) { try core.end() }
}

/// What stands behind a ``Flow``.
@safe final class FlowCore {
    let rule: FlowRule
    private let queuePair: QueuePairCore
    private let native: UnsafeMutablePointer<ibv_flow>
    private var hasEnded = false
    private var last: FlowPlacement

    init(
        _ queuePair: QueuePairCore, _ rule: FlowRule, mode: FlowMode, places: Set<FlowPlace>, keepsSuperFrames: Bool
    ) throws(VerbsError) {
        self.queuePair = queuePair
        self.rule = rule
        let verb = "ibv_create_flow"
        var bytes: [UInt8]
        do throws(FlowRuleError) {
            try rule.validate()
            // The provider counts by its own means.
            var plain = rule
            plain.counts = false
            bytes = try FlowAttributes.encode(plain)
        } catch {
            throw VerbsError(
                .invalidAttribute, verb: verb, subject: error.field, value: error.explanation, remedy: error.remedy)
        }
        let options = ProviderFlowOptions(
            mode: mode.native, places: Set(places.map(\.native)), counts: rule.counts,
            keepsSuperFrames: keepsSuperFrames)
        let path = queuePair.domain.context.path
        let made = unsafe bytes.withUnsafeMutableBytes { bytes in
            // The layout is that of the structure, read during the call.
            let attributes = unsafe bytes.baseAddress!.assumingMemoryBound(to: ibv_flow_attr.self)
            return unsafe Result { () throws(ProviderError) in
                try unsafe path.makeFlow(queuePair.native, attributes, options: options)
            }
        }
        do throws(ProviderError) {
            unsafe native = try made.get()
        } catch {
            throw Diagnosis.flow(error, transport: queuePair.transport)
        }
        last = unsafe FlowPlacement(path.placement(of: native))
    }

    var placement: FlowPlacement {
        hasEnded ? last : unsafe FlowPlacement(queuePair.domain.context.path.placement(of: native))
    }

    func counters() throws(VerbsError) -> FlowCounters {
        guard !hasEnded else { return FlowCounters(packets: 0, bytes: 0) }
        do throws(ProviderError) {
            let counters = try unsafe queuePair.domain.context.path.counters(of: native)
            return FlowCounters(packets: counters.packets, bytes: counters.bytes)
        } catch {
            throw VerbsError(error)
        }
    }

    func end() throws(VerbsError) {
        guard !hasEnded else { return }
        last = placement
        hasEnded = true
        queuePair.flows[ObjectIdentifier(self)] = nil
        do throws(ProviderError) {
            try unsafe queuePair.domain.context.path.destroy(native)
        } catch {
            throw VerbsError(error)
        }
    }
}

extension QueuePair {
    /// Brings a raw packet queue pair to RTS: INIT on the port, RTR, RTS. Then post receives and attach flows.
    ///
    /// A frame that `sources` does not allow is not sent: its request completes with ``WorkStatus/localQueuePairOperationError``, those
    /// behind it are flushed, and the queue pair is in SQE, from where `modify` leads back to RTS. What is judged is a copy of its
    /// headers, and the copy is sent.
    ///
    /// - Parameters:
    ///   - port: the port of the device, from 1.
    ///   - sources: in whose name it may send, until it is reset; `nil` for any. The environment and whoever lends the process its socket may
    ///     ask for a check, too: then a frame has to pass all.
    /// - Throws: `unsupported` where `sources` is given and the device is not the software device.
    public func start(port: UInt8, sources: SourceCheck? = nil) throws(VerbsError) {
        guard transport == .rawPacket else {
            throw VerbsError(
                .invalidTransition, verb: "ibv_modify_qp", subject: "transport", value: "\(transport)",
                limit: "RAW_PACKET", remedy: "Call prepare(), then start() for UD or connect(to:) for RC and UC")
        }
        if let sources {
            do throws(ProviderError) {
                try unsafe core.domain.context.path.checkSources(of: native, sources.description)
            } catch {
                throw VerbsError(error)
            }
        }
        var attributes = QueuePairAttributes(state: .initialized)
        attributes.port = port
        try modify(attributes)
        try modify(QueuePairAttributes(state: .readyToReceive))
        try modify(QueuePairAttributes(state: .readyToSend))
    }

    /// Lets frames that match a rule come to this raw packet queue pair, each into a receive that was posted, where they lie as they
    /// were on the wire (without the frame check sequence).
    ///
    /// A frame for which no receive is posted is dropped and counted. One that is longer than its receive completes it with
    /// ``WorkStatus/localLengthError``; the queue pair goes on.
    ///
    /// Rules mean what `ibv_create_flow` says: see ``FlowRule``. All flows of an interface in one context are carried out in one place,
    /// and have one mode.
    ///
    /// - Parameters:
    ///   - rule: what to match, and what to do.
    ///   - mode: who else has the traffic of the interface.
    ///   - places: where the rule may be carried out. The highest place that can is taken; ``Flow/placement`` tells which.
    ///   - keepsSuperFrames: the kernel hands over frames of up to 64 KiB that it has not cut up yet, or has joined. They are cut into
    ///     the segments of the wire unless this is set.
    /// - Throws: `invalidAttribute` with the field of a rule that cannot be; `permission` or `unsupported`, with the reason of each
    ///   place, if none can carry it out; `busy` if the flows there have another mode.
    ///
    /// The corresponding C function is `ibv_create_flow`.
    public func attach(
        _ rule: FlowRule, mode: FlowMode = .singleUser, places: Set<FlowPlace> = Set(FlowPlace.allCases),
        keepsSuperFrames: Bool = false
    ) throws(VerbsError) -> Flow {
        let flow = try FlowCore(core, rule, mode: mode, places: places, keepsSuperFrames: keepsSuperFrames)
        core.flows[ObjectIdentifier(flow)] = flow
        return Flow(flow)
    }
}
