// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import VerbsABI

// `ibv_open_qp`: further handles of a target of XRC. The target lives as long as any of them, and each gets its events.

/// The handles of the targets of XRC, by the targets' numbers: addresses of `ibv_qp`, which are in here until the destroy
/// verb frees them.
struct TargetHandles {
    private var handles: [UInt32: [UInt]] = [:]

    mutating func add(_ handle: UInt, of number: UInt32) { handles[number, default: []].append(handle) }

    /// - Returns: a handle that is left of the same target, or `nil`.
    mutating func remove(_ handle: UInt, of number: UInt32) -> UInt? {
        handles[number]?.removeAll { $0 == handle }
        let left = handles[number]?.first
        if left == nil { handles[number] = nil }
        return left
    }

    func first(of number: UInt32) -> UInt? { handles[number]?.first }

    func all(of number: UInt32) -> [UInt] { handles[number] ?? [] }
}

extension SoftContext {
    /// The corresponding C function is `ibv_open_qp`.
    fileprivate func openTarget(
        _ attributes: ibv_qp_open_attr
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_qp> {
        let verb: StaticString = "ibv_open_qp"
        let mask = unsafe attributes.comp_mask
        func has(_ attribute: ibv_qp_open_attr_mask) -> Bool { mask & attribute.rawValue != 0 }
        guard has(IBV_QP_OPEN_ATTR_NUM), has(IBV_QP_OPEN_ATTR_TYPE), has(IBV_QP_OPEN_ATTR_XRCD),
            unsafe attributes.qp_type == .IBV_QPT_XRC_RECV, let domain = unsafe attributes.xrcd
        else {
            throw ProviderError(verb, code: EINVAL, detail: "targets of XRC are opened, by qp_num, qp_type and xrcd")
        }
        let number = unsafe attributes.qp_num
        // The handle that is looked at must not be destroyed meanwhile.
        let address = try targetHandles.withLock { handles throws(ProviderError) -> UInt in
            guard
                let known = unsafe handles.first(of: number).flatMap({
                    unsafe UnsafeMutablePointer<ibv_qp>(bitPattern: $0)
                }),
                let itsDomain = unsafe queuePairRecord(known).pointee.xrcDomain,
                unsafe xrcDomainRecord(itsDomain).pointee.number == xrcDomainRecord(domain).pointee.number
            else {
                throw ProviderError(
                    verb, code: EINVAL,
                    detail: "qp_num \(number): no target of the domain in this process")
            }
            let handle = unsafe UInt(bitPattern: copy(known, in: domain))
            handles.add(handle, of: number)
            return handle
        }
        // Made above, and the caller's alone.
        let handle = unsafe UnsafeMutablePointer<ibv_qp>(bitPattern: address)!
        unsafe handle.pointee.qp_context = unsafe has(IBV_QP_OPEN_ATTR_CONTEXT) ? attributes.qp_context : nil
        return unsafe handle
    }

    /// Another handle of the same target.
    private func copy(
        _ known: UnsafeMutablePointer<ibv_qp>, in domain: UnsafeMutablePointer<ibv_xrcd>
    ) -> UnsafeMutablePointer<ibv_qp> {
        let source = unsafe queuePairRecord(known)
        let record = unsafe QueuePairRecord(
            context: .passUnretained(self), qpn: source.pointee.qpn, sendQueue: source.pointee.sendQueue,
            receiveQueue: source.pointee.receiveQueue, capabilities: source.pointee.capabilities,
            signalsAll: source.pointee.signalsAll, xrcDomain: domain)
        let memory = unsafe ObjectStorage<ibv_qp_ex, QueuePairRecord>()
        let handle = unsafe UnsafeMutableRawPointer(memory.initialize(record)).assumingMemoryBound(to: ibv_qp.self)
        unsafe handle.pointee.context = unsafe context
        unsafe handle.pointee.handle = unsafe known.pointee.handle
        unsafe handle.pointee.qp_num = unsafe known.pointee.qp_num
        unsafe handle.pointee.state = unsafe known.pointee.state
        unsafe handle.pointee.qp_type = .IBV_QPT_XRC_RECV
        unsafe countUsers(of: handle, by: 1)
        return unsafe handle
    }

    func addTargetHandle(_ handle: UnsafeMutablePointer<ibv_qp>) {
        let (address, number) = unsafe (UInt(bitPattern: handle), handle.pointee.qp_num)
        targetHandles.withLock { $0.add(address, of: number) }
    }

    /// A handle of a target is destroyed.
    ///
    /// - Returns: whether others are left, one of which the engine's events name from now on.
    func leavesTarget(_ handle: UnsafeMutablePointer<ibv_qp>) throws(ProviderError) -> Bool {
        let qpn = unsafe queuePairRecord(handle).pointee.qpn
        let address = UInt(bitPattern: handle)
        // Within the device's lock, so that of two handles destroyed at once the second does not leave the name of the first.
        return try withEngine("ibv_destroy_qp") { engine throws(EngineError) in
            guard let left = targetHandles.withLock({ $0.remove(address, of: qpn.rawValue) }) else { return false }
            try engine.setTag(qpn, left)
            return true
        }
    }
}

/// `verbs_context.open_qp`.
@c func softOpenQueuePair(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_qp_open_attr>?
) -> UnsafeMutablePointer<ibv_qp>? {
    guard let context = unsafe context, let attributes = unsafe attributes else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).openTarget(attributes.pointee)
    }
}
