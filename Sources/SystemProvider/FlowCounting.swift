// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization
import VerbsABI

/// Which `ibv_counters` belong to which flow, by address.
final class FlowCounterTable: Sendable {
    private let entries = Mutex<[UInt: UInt]>([:])

    func add(_ flow: UInt, counters: UInt) { entries.withLock { $0[flow] = counters } }

    /// 0 where there are none.
    func counters(of flow: UInt) -> UInt { entries.withLock { $0[flow] ?? 0 } }

    func remove(_ flow: UInt) -> UInt { entries.withLock { $0.removeValue(forKey: flow) ?? 0 } }
}

/// Counters of flows on a verbs device: an `ibv_counters` with packets at index 0 and bytes at 1.
///
/// No device that has them was at hand; the structures are held against the C headers by a recording device.
enum FlowCounting {
    static func makeCounters(
        _ context: UnsafeMutablePointer<ibv_context>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_counters> {
        let verb: StaticString = "ibv_create_counters"
        var initial = ibv_counters_init_attr()
        guard let counters = unsafe ibv_create_counters(context, &initial) else {
            throw ProviderError(verb, code: errno, detail: "the device does not count flows")
        }
        for (index, what) in [IBV_COUNTER_PACKETS, IBV_COUNTER_BYTES].enumerated() {
            var point = ibv_counter_attach_attr()
            point.counter_desc = what
            point.index = UInt32(index)
            let code = unsafe ibv_attach_counters_point_flow(counters, &point, nil)
            guard code == 0 else {
                unsafe destroy(counters)
                throw ProviderError("ibv_attach_counters_point_flow", code: code)
            }
        }
        return unsafe counters
    }

    static func destroy(_ counters: UnsafeMutablePointer<ibv_counters>) {
        _ = unsafe ibv_destroy_counters(counters)
    }

    static func read(_ counters: UnsafeMutablePointer<ibv_counters>) throws(ProviderError) -> ProviderFlowCounters {
        var values = [UInt64](repeating: 0, count: 2)
        let code = unsafe ibv_read_counters(counters, &values, 2, UInt32(IBV_READ_COUNTERS_ATTR_PREFER_CACHED.rawValue))
        guard code == 0 else { throw ProviderError("ibv_read_counters", code: code) }
        var result = ProviderFlowCounters()
        result.packets = values[0]
        result.bytes = values[1]
        return result
    }

    /// The attributes with one more specification, `IBV_FLOW_SPEC_ACTION_COUNT`.
    static func withCounting<Result>(
        _ attributes: UnsafeMutablePointer<ibv_flow_attr>, _ counters: UnsafeMutablePointer<ibv_counters>,
        _ body: (UnsafeMutablePointer<ibv_flow_attr>) -> Result
    ) -> Result {
        let byteCount = unsafe Int(attributes.pointee.size)
        let added = unsafe MemoryLayout<ibv_flow_spec_counter_action>.size
        return unsafe withUnsafeTemporaryAllocation(byteCount: byteCount + added, alignment: 8) { memory in
            // The structure says how long it is; the specification goes behind it.
            unsafe memory.copyMemory(from: UnsafeRawBufferPointer(start: attributes, count: byteCount))
            var action = unsafe ibv_flow_spec_counter_action()
            unsafe action.type = IBV_FLOW_SPEC_ACTION_COUNT
            unsafe action.size = UInt16(added)
            unsafe action.counters = counters
            unsafe withUnsafeBytes(of: action) { action in
                unsafe UnsafeMutableRawBufferPointer(rebasing: memory[byteCount...]).copyMemory(from: action)
            }
            let copy = unsafe memory.baseAddress!.assumingMemoryBound(to: ibv_flow_attr.self)
            unsafe copy.pointee.size = UInt16(byteCount + added)
            unsafe copy.pointee.num_of_specs += 1
            return unsafe body(copy)
        }
    }
}
