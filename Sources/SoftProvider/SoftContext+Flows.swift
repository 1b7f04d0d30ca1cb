// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Glibc
import RoCETransport
import VerbsABI

// Flows of raw packet queue pairs.

/// What stands behind an `ibv_flow`.
@safe struct FlowRecord: ~Copyable {
    let id: FlowID
    let queuePair: UnsafeMutablePointer<ibv_qp>
}

private typealias FlowStorage = ObjectStorage<ibv_flow, FlowRecord>

extension SoftContext {
    package func makeFlow(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, _ attributes: UnsafeMutablePointer<ibv_flow_attr>,
        options: ProviderFlowOptions
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_flow> {
        let verb: StaticString = "ibv_create_flow"
        guard unsafe queuePair.pointee.qp_type == .IBV_QPT_RAW_PACKET else {
            throw ProviderError(verb, code: EINVAL, detail: "qp_type: flows are for raw packet queue pairs")
        }
        let decoded: FlowAttributes.Decoded
        do throws(FlowRuleError) {
            // Valid for the call, as long as the specifications behind the structure say.
            let bytes = unsafe RawSpan(_unsafeStart: attributes, byteCount: Self.byteCount(of: attributes))
            decoded = try FlowAttributes.decode(bytes)
        } catch {
            throw ProviderError(verb, code: EINVAL, detail: error.description)
        }
        if let counters = decoded.counters, !flowCounting.withLock({ $0.contains(counters) }) {
            throw ProviderError(verb, code: EINVAL, detail: "action count: the counters are none of this device")
        }
        let qpn = unsafe queuePairRecord(queuePair).pointee.qpn
        let elements = unsafe queuePairRecord(queuePair).pointee.capabilities.max_recv_sge
        let fillsInPlace = unsafe queuePair.pointee.srq == nil && elements == 1
        let id = try withPort { port, engine throws(ProviderError) in
            try port.insert(decoded.rule, qpn, options, fillsInPlace: fillsInPlace, &engine)
        }
        if let counters = decoded.counters { flowCounting.withLock { $0.begin(id, in: counters) } }
        let flow = unsafe FlowStorage().initialize(FlowRecord(id: id, queuePair: queuePair))
        unsafe flow.pointee.context = unsafe context
        unsafe flow.pointee.handle = id.rawValue
        unsafe queuePairRecord(queuePair).pointee.flows.add(1, ordering: .relaxed)
        return unsafe flow
    }

    /// The bytes of the structure and the specifications behind it. Its member `size` is not filled in by all programs, and libibverbs
    /// goes by the specifications, too.
    private static func byteCount(of attributes: UnsafeMutablePointer<ibv_flow_attr>) -> Int {
        let start = UnsafeRawPointer(attributes)
        var byteCount = MemoryLayout<ibv_flow_attr>.size
        for _ in 0..<(unsafe attributes.pointee.num_of_specs) {
            // Each begins with a type of 32 bits and its size.
            byteCount += unsafe Int(start.loadUnaligned(fromByteOffset: byteCount + 4, as: UInt16.self))
        }
        return byteCount
    }

    package func checkSources(
        of queuePair: UnsafeMutablePointer<ibv_qp>, _ sources: String
    ) throws(ProviderError) {
        let check: SourceCheck
        do throws(FlowRuleError) {
            check = try SourceCheck(parsing: sources)
        } catch {
            throw ProviderError("ibv_modify_qp", code: EINVAL, detail: error.description)
        }
        let qpn = unsafe queuePairRecord(queuePair).pointee.qpn
        withCore { $0.port.check(check, of: qpn) }
    }

    package func destroy(_ flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) {
        let id = unsafe FlowStorage.record(flow).pointee.id
        try flowCounting.withLock { counting throws(ProviderError) in
            let counted = try withPort { port, engine throws(ProviderError) in port.remove(id, &engine) }
            counting.end(id, counted: counted)
        }
        unsafe queuePairRecord(FlowStorage.record(flow).pointee.queuePair).pointee.flows
            .subtract(1, ordering: .releasing)
        unsafe FlowStorage.free(flow)
    }

    package func placement(of flow: UnsafeMutablePointer<ibv_flow>) -> ProviderFlowPlacement {
        // There is one as long as there is a flow.
        withCore { unsafe $0.port.placement(of: FlowStorage.record(flow).pointee.id) }
            ?? ProviderFlowPlacement(place: .udp, reasonForCopies: "no place carries it out", refusals: [])
    }

    package func counters(of flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) -> ProviderFlowCounters {
        unsafe counters(of: FlowStorage.record(flow).pointee.id)
    }

    func counters(of flow: FlowID) -> ProviderFlowCounters { withCore { $0.port.counters(of: flow) } }
}

/// `verbs_context.ibv_create_flow`.
@c func softCreateFlow(
    _ queuePair: UnsafeMutablePointer<ibv_qp>?, _ attributes: UnsafeMutablePointer<ibv_flow_attr>?
) -> UnsafeMutablePointer<ibv_flow>? {
    guard let queuePair = unsafe queuePair, let attributes = unsafe attributes else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(queuePair.pointee.context).makeFlow(
            queuePair, attributes, options: ProviderFlowOptions())
    }
}

/// `verbs_context.ibv_destroy_flow`.
@c func softDestroyFlow(_ flow: UnsafeMutablePointer<ibv_flow>?) -> Int32 {
    guard let flow = unsafe flow else { return EINVAL }
    return softCode { () throws(ProviderError) in
        unsafe try SoftContext.of(flow.pointee.context).destroy(flow)
    }
}
