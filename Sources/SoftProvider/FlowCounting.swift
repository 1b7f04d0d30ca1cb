// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Glibc
import RoCETransport
import VerbsABI

/// The counters that programs in C made for their flows (`ibv_counters`), and what counts in them. The device counts every flow anyway;
/// here is where whose counts are shown.
struct FlowCounting {
    /// One value of an object: what is counted, and where it is added.
    private struct Point {
        let countsBytes: Bool
        let index: Int

        func value(of counters: ProviderFlowCounters) -> UInt64 { countsBytes ? counters.bytes : counters.packets }
    }

    /// A flow that counts in an object, and what it had counted before.
    private struct Use {
        let flow: FlowID
        let points: [Point]
        let before: ProviderFlowCounters
    }

    private struct Counters {
        /// For flows that are created with the object.
        var points: [Point] = []
        var uses: [Use] = []
        /// Of flows that are gone.
        var sums: [UInt64] = []

        static func add(_ counted: ProviderFlowCounters, of use: Use, to sums: inout [UInt64]) {
            for point in use.points {
                if sums.count <= point.index { sums += Array(repeating: 0, count: point.index + 1 - sums.count) }
                sums[point.index] &+= point.value(of: counted) &- point.value(of: use.before)
            }
        }
    }

    /// By the address of the C structure.
    private var objects: [UInt: Counters] = [:]

    mutating func make(_ object: UInt) { objects[object] = Counters() }

    func contains(_ object: UInt) -> Bool { objects[object] != nil }

    mutating func remove(_ object: UInt) throws(ProviderError) {
        guard objects[object]?.uses.isEmpty ?? true else {
            throw ProviderError("ibv_destroy_counters", code: EBUSY, detail: "flows count in them: destroy those first")
        }
        objects[object] = nil
    }

    /// Names a value: of all flows that are created with the object, or of one that there is.
    mutating func attach(
        _ object: UInt, _ attributes: ibv_counter_attach_attr, to flow: (id: FlowID, counted: ProviderFlowCounters)?
    ) throws(ProviderError) {
        let verb: StaticString = "ibv_attach_counters_point_flow"
        let description = attributes.counter_desc
        guard description == IBV_COUNTER_PACKETS || description == IBV_COUNTER_BYTES else {
            throw ProviderError(verb, code: ENOTSUP, detail: "counter_desc \(description.rawValue): packets or bytes")
        }
        guard attributes.comp_mask == 0, attributes.index < DeviceLimits.counterPoints else {
            throw ProviderError(
                verb, code: EINVAL,
                detail: "comp_mask is to be 0, and index \(attributes.index) below \(DeviceLimits.counterPoints)")
        }
        let point = Point(countsBytes: description == IBV_COUNTER_BYTES, index: Int(attributes.index))
        if let flow {
            objects[object]?.uses.append(Use(flow: flow.id, points: [point], before: flow.counted))
            return
        }
        guard objects[object]?.uses.isEmpty ?? true else {
            throw ProviderError(verb, code: EBUSY, detail: "flows count in the object already")
        }
        objects[object]?.points.append(point)
    }

    /// A flow is created with an object.
    mutating func begin(_ flow: FlowID, in object: UInt) {
        guard let points = objects[object]?.points else { return }
        objects[object]?.uses.append(Use(flow: flow, points: points, before: ProviderFlowCounters()))
    }

    /// A flow is gone.
    mutating func end(_ flow: FlowID, counted: ProviderFlowCounters) {
        for (object, counters) in objects where counters.uses.contains(where: { $0.flow == flow }) {
            var counters = counters
            for use in counters.uses where use.flow == flow { Counters.add(counted, of: use, to: &counters.sums) }
            counters.uses.removeAll { $0.flow == flow }
            objects[object] = counters
        }
    }

    /// The values of an object, of all its flows together; those that were never named are not there.
    func values(of object: UInt, counted: (FlowID) -> ProviderFlowCounters) -> [UInt64] {
        guard let counters = objects[object] else { return [] }
        var sums = counters.sums
        for use in counters.uses { Counters.add(counted(use.flow), of: use, to: &sums) }
        return sums
    }
}

/// `verbs_context.create_counters`.
@c func softCreateCounters(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_counters_init_attr>?
) -> UnsafeMutablePointer<ibv_counters>? {
    guard let context = unsafe context, let attributes = unsafe attributes, unsafe attributes.pointee.comp_mask == 0
    else {
        errno = EINVAL
        return nil
    }
    let device = unsafe SoftContext.of(context)
    // Freed by softDestroyCounters; its address is its name until then.
    let counters = UnsafeMutablePointer<ibv_counters>.allocate(capacity: 1)
    unsafe counters.initialize(to: ibv_counters(context: context))
    let name = UInt(bitPattern: counters)
    device.flowCounting.withLock { $0.make(name) }
    device.objects.add(1, ordering: .relaxed)
    return unsafe counters
}

/// `verbs_context.destroy_counters`: EBUSY while flows count in them.
@c func softDestroyCounters(_ counters: UnsafeMutablePointer<ibv_counters>?) -> Int32 {
    guard let counters = unsafe counters else { return EINVAL }
    let device = unsafe SoftContext.of(counters.pointee.context)
    let name = UInt(bitPattern: counters)
    return softCode { () throws(ProviderError) in
        try device.flowCounting.withLock { (counting) throws(ProviderError) in try counting.remove(name) }
        device.objects.subtract(1, ordering: .relaxed)
        unsafe counters.deallocate()
    }
}

/// `verbs_context.attach_counters_point_flow`.
@c func softAttachCounters(
    _ counters: UnsafeMutablePointer<ibv_counters>?, _ attributes: UnsafeMutablePointer<ibv_counter_attach_attr>?,
    _ flow: UnsafeMutablePointer<ibv_flow>?
) -> Int32 {
    guard let counters = unsafe counters, let attributes = unsafe attributes else { return EINVAL }
    let device = unsafe SoftContext.of(counters.pointee.context)
    let name = UInt(bitPattern: counters)
    let wanted = unsafe attributes.pointee
    let id = unsafe flow.map { unsafe FlowID(rawValue: $0.pointee.handle) }
    return softCode { () throws(ProviderError) in
        try device.flowCounting.withLock { (counting) throws(ProviderError) in
            try counting.attach(name, wanted, to: id.map { ($0, device.counters(of: $0)) })
        }
    }
}

/// `verbs_context.read_counters`. They are always fresh, whatever the flags prefer.
@c func softReadCounters(
    _ counters: UnsafeMutablePointer<ibv_counters>?, _ values: UnsafeMutablePointer<UInt64>?, _ count: UInt32,
    _ flags: UInt32
) -> Int32 {
    guard let counters = unsafe counters, let values = unsafe values,
        flags & ~UInt32(IBV_READ_COUNTERS_ATTR_PREFER_CACHED.rawValue) == 0
    else { return EINVAL }
    let device = unsafe SoftContext.of(counters.pointee.context)
    let name = UInt(bitPattern: counters)
    let sums = device.flowCounting.withLock { $0.values(of: name) { device.counters(of: $0) } }
    for index in 0..<Int(count) { unsafe values[index] = index < sums.count ? sums[index] : 0 }
    return 0
}
