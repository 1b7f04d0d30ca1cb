// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowPrograms
import FlowSteering
import PacketIO
import RoCETransport
import VerbsABI

/// Flow rules in an XDP program, which sends what they select to AF_XDP sockets, one for each queue of the interface. The kernel's stack
/// has the rest, or nobody in the exclusive mode.
///
/// The program says in front of each frame which rule it was, so that nothing is looked up again here.
final class XDPPlace: FramePlace {
    private var frames: XDPFrames
    private var table: XDPRuleTable
    private let interface: NetworkInterface
    private let mode: XDPAttachment.Mode
    private var isAttached = false
    private var age: UInt64 = 0
    var dropped: UInt64 { frames.dropped }

    var place: ProviderFlowPlace { mode == .native ? .xdp : .xdpGeneric }
    var namesRules: Bool { true }
    var sends: Bool { true }
    var descriptors: [Int32] { (0..<frames.queueCount).map { frames.descriptor($0) } }

    init(
        _ interface: NetworkInterface, mode: ProviderFlowMode, attachment: XDPAttachment.Mode
    ) throws(FramePlaceRefusal) {
        if let reason = XDPSelection.impossibility(interface) {
            throw FramePlaceRefusal(reason, isOfPrivilege: !Capability.missing(of: Capability.forXDP).isEmpty)
        }
        self.interface = interface
        self.mode = attachment
        do throws(PacketIOError) {
            // So few that they stay in the caches: each is used again after all others.
            var frameOptions = XDPFrames.Options()
            frameOptions.receiveCount = 4_096
            frames = try XDPFrames(interface, frameOptions)
            var options = XDPRuleTable.Options()
            options.missVerdict = mode == .exclusive ? .drop : .pass
            options.marksFrames = true
            options.takesFragments = frames.takesFragments
            options.socketCount = frames.queueCount
            table = try XDPRuleTable(options)
            for queue in 0..<frames.queueCount { try table.setSocket(queue, to: frames.descriptor(queue)) }
        } catch {
            throw Self.refusal(error, interface)
        }
    }

    static func refusal(_ error: PacketIOError, _ interface: NetworkInterface) -> FramePlaceRefusal {
        var isOfPrivilege = false
        if case .system(_, EPERM) = error { isOfPrivilege = true }
        return FramePlaceRefusal(XDPSelection.reason(error, interface), isOfPrivilege: isOfPrivilege)
    }

    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        do throws(XDPRuleError) {
            try table.insert([XDPRule(rule, id: id, order: FlowOrder(rule, age: age))])
            age += 1
        } catch {
            throw FramePlaceRefusal(error.description)
        }
        guard !isAttached else { return }
        // Behind the first rule, so that the exclusive mode drops nothing that the rule wants.
        do throws(PacketIOError) {
            try table.attach(to: interface.index, mode: mode)
            isAttached = true
        } catch {
            throw Self.refusal(error, interface)
        }
    }

    func remove(_ id: FlowID) {
        // It fails for want of memory for another program alone: then the frames come, and find no flow.
        _ = try? table.remove(id)
    }

    func counters(of id: FlowID) -> ProviderFlowCounters? {
        var counters = ProviderFlowCounters()
        guard let counted = table.counters(of: id) else { return counters }
        counters.packets = counted.packets
        counters.bytes = counted.bytes
        return counters
    }

    func receive(into received: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        unsafe frames.receive(into: received, limit: limit)
    }

    /// Puts frames into the ring, from where the kernel sends them in this call or a later one.
    func send(_ batch: borrowing FrameBatch) -> FrameSender.Outcome {
        var count = 0
        while count < batch.count {
            let byteCount = batch.byteCount(of: count)
            guard byteCount >= 14, byteCount <= frames.frameByteCountMax else {
                // Those before it go first.
                if count == 0 { return .unfit }
                break
            }
            let first = unsafe batch.pieces + count * batch.pieceCountMax
            let pieceCount = unsafe batch.counts[count]
            let isAdded = unsafe frames.add(byteCount: byteCount) { target in
                var offset = 0
                for piece in 0..<pieceCount {
                    guard let base = unsafe first[piece].base else { continue }
                    // As long together as the frame: counted above, from what the engine has copied.
                    unsafe (target + offset).copyMemory(from: base, byteCount: first[piece].byteCount)
                    unsafe offset += first[piece].byteCount
                }
            }
            guard isAdded else { break }
            count += 1
        }
        frames.flush()
        if frames.isBroken { return .down }
        return count > 0 ? .sent(count) : .full
    }

    func finishSending() -> Bool {
        if frames.isUnsent { frames.flush() }
        return !frames.isUnsent
    }
}
