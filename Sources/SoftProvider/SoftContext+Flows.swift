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
        let rule: FlowRule
        do throws(FlowRuleError) {
            // The structure says how long it is, with the specifications behind it; valid for the call.
            let bytes = unsafe RawSpan(_unsafeStart: attributes, byteCount: Int(attributes.pointee.size))
            rule = try FlowAttributes.decode(bytes).rule
        } catch {
            throw ProviderError(verb, code: EINVAL, detail: error.description)
        }
        let qpn = unsafe queuePairRecord(queuePair).pointee.qpn
        let id = try withPort { port throws(ProviderError) in try port.insert(rule, qpn, options) }
        let flow = unsafe FlowStorage().initialize(FlowRecord(id: id, queuePair: queuePair))
        unsafe flow.pointee.context = unsafe context
        unsafe flow.pointee.handle = id.rawValue
        unsafe queuePairRecord(queuePair).pointee.flows.add(1, ordering: .relaxed)
        return unsafe flow
    }

    package func destroy(_ flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) {
        let id = unsafe FlowStorage.record(flow).pointee.id
        try withPort { port throws(ProviderError) in port.remove(id) }
        unsafe queuePairRecord(FlowStorage.record(flow).pointee.queuePair).pointee.flows
            .subtract(1, ordering: .releasing)
        unsafe FlowStorage.free(flow)
    }

    package func placement(of flow: UnsafeMutablePointer<ibv_flow>) -> ProviderFlowPlacement {
        // There is one as long as there is a flow.
        withCore { $0.port.placement } ?? ProviderFlowPlacement(place: .udp, takesFromStack: false, refusals: [])
    }

    package func counters(of flow: UnsafeMutablePointer<ibv_flow>) throws(ProviderError) -> ProviderFlowCounters {
        let id = unsafe FlowStorage.record(flow).pointee.id
        return withCore { $0.port.counters(of: id) }
    }
}
