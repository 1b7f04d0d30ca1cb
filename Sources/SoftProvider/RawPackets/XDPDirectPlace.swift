// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowPrograms
import FlowSteering
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

/// Flow rules in an XDP program whose AF_XDP socket has the posted receives of one queue pair for its memory: a frame is written once, by
/// the kernel, to where it was posted.
///
/// The socket is opened for the region of the first receive. The receives stay posted in the queue pair meanwhile, so that
/// whatever ends it flushes them, too.
final class XDPDirectPlace: FramePlace {
    private let interface: NetworkInterface
    private var table: XDPRuleTable
    private var queue: XDPDirectQueue?
    private var rules: [FlowID: FlowRule] = [:]
    /// That of all rules.
    private var tag: UInt32?
    private var isAttached = false
    private var age: UInt64 = 0
    /// The next receive to be looked at.
    private var next: UInt32?
    /// The engine rings for each receive that is posted.
    private var isAwaiting = false
    /// Why the memory of the receives cannot be had; then another place is to have the rules.
    private(set) var failure: FramePlaceRefusal?
    /// Frames up to the MTU, with two VLAN tags.
    private let frameByteCount: Int
    private(set) var dropped: UInt64 = 0
    private(set) var generation = 0

    private static let depth: UInt32 = 4096

    var place: ProviderFlowPlace { .xdpDirect }
    var namesRules: Bool { true }
    var descriptors: [Int32] {
        guard let descriptor = queue?.descriptor else { return [] }
        return [descriptor]
    }

    init(_ interface: NetworkInterface, mode: ProviderFlowMode) throws(FramePlaceRefusal) {
        guard mode == .exclusive else {
            throw FramePlaceRefusal("receives are filled in place in the exclusive mode alone")
        }
        if let reason = XDPSelection.impossibility(interface) {
            throw FramePlaceRefusal(reason, isOfPrivilege: !Capability.missing(of: Capability.forXDP).isEmpty)
        }
        guard InterfaceDriver.receiveQueueCount(of: interface.name) == 1 else {
            throw FramePlaceRefusal(
                "\(interface.name) has several receive queues: ethtool -L \(interface.name) combined 1 leaves one")
        }
        self.interface = interface
        frameByteCount = max(interface.mtu + 22, XDPDirectQueue.frameByteCounts.lowerBound)
        guard XDPDirectQueue.frameByteCounts.contains(frameByteCount) else {
            throw FramePlaceRefusal(
                "the MTU of \(interface.name), \(interface.mtu), is too large for frames in one piece of memory")
        }
        do throws(PacketIOError) {
            var options = XDPRuleTable.Options()
            options.missVerdict = .drop
            options.socketCount = 1
            table = try XDPRuleTable(options)
        } catch {
            throw XDPPlace.refusal(error, interface)
        }
    }

    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        // A mark would have to stand before the frame, where another buffer may be.
        guard rules.isEmpty || rules.values.allSatisfy({ $0.tag == rule.tag }) else {
            throw FramePlaceRefusal("a frame in place does not say which rule it was: give all rules one tag")
        }
        do throws(XDPRuleError) {
            try table.insert([XDPRule(rule, id: id, order: FlowOrder(rule, age: age), socket: nil)])
            age += 1
        } catch {
            throw FramePlaceRefusal(error.description)
        }
        rules[id] = rule
        tag = rule.tag
        guard !isAttached else { return }
        do throws(PacketIOError) {
            try table.attach(to: interface.index, mode: .native)
            isAttached = true
        } catch {
            throw XDPPlace.refusal(error, interface)
        }
    }

    func remove(_ id: FlowID) {
        rules[id] = nil
        _ = try? table.remove(id)
    }

    func counters(of id: FlowID) -> ProviderFlowCounters? {
        var counters = ProviderFlowCounters()
        guard let counted = table.counters(of: id) else { return counters }
        counters.packets = counted.packets
        counters.bytes = counted.bytes
        return counters
    }

    func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int { 0 }

    // MARK: In place

    /// Hands posted receives to the kernel and completes those that it has filled.
    /// - Returns: whether any was.
    func exchange(with engine: inout Engine, _ qpn: QPN) -> Bool {
        guard failure == nil, let oldest = engine.oldestReceive(of: qpn) else {
            // In ERR all receives are flushed: the kernel must write to none of them any more.
            close(&engine, qpn)
            return false
        }
        if !isAwaiting {
            engine.beginReceivesInPlace(of: qpn)
            isAwaiting = true
        }
        let worked = takeArrivals(&engine, qpn)
        supply(&engine, qpn, from: next ?? oldest)
        return worked
    }

    @discardableResult
    private func takeArrivals(_ engine: inout Engine, _ qpn: QPN) -> Bool {
        queue == nil ? false : Self.takeArrivals(&queue!, tag, &engine, qpn)
    }

    // On the queue itself, so that the accesses of a batch are one.
    private static func takeArrivals(
        _ queue: inout XDPDirectQueue, _ tag: UInt32?, _ engine: inout Engine, _ qpn: QPN
    ) -> Bool {
        var worked = false
        while let arrival = queue.poll() {
            worked = true
            var facts = FrameFacts()
            if let tag {
                facts.fields.insert(.tag)
                facts.tag = tag
            }
            let bytes = unsafe UnsafeRawBufferPointer(start: arrival.address, count: arrival.byteCount)
            if let tag = unsafe ReceivedFrame(bytes).vlanTag {
                facts.fields.insert(.vlanTag)
                facts.vlanTag = tag
            }
            engine.completeInPlace(
                UInt32(truncatingIfNeeded: arrival.id), of: qpn, status: .success, byteCount: arrival.byteCount, facts)
        }
        return worked
    }

    private func supply(_ engine: inout Engine, _ qpn: QPN, from index: UInt32) {
        var index = index
        if queue == nil {
            guard let receive = engine.receiveInPlace(at: &index, of: qpn) else {
                next = index
                return
            }
            open(receive)
            // All stay posted, for the place that has the rules next.
            guard queue != nil else { return }
            index = receive.index
        }
        next = Self.supply(&queue!, &engine, qpn, from: index)
    }

    /// - Returns: the index of the next receive to be looked at.
    private static func supply(
        _ queue: inout XDPDirectQueue, _ engine: inout Engine, _ qpn: QPN, from index: UInt32
    ) -> UInt32 {
        guard let oldest = engine.oldestReceive(of: qpn) else { return index }
        var index = index
        var isPosted = false
        // As many as the queue holds, so that no receive is looked at for which there is no room.
        while index &- oldest < depth, let receive = engine.receiveInPlace(at: &index, of: qpn) {
            if unsafe queue.post(receive.memory, byteCount: receive.byteCount, id: UInt64(receive.index)) {
                isPosted = true
                continue
            }
            // Too short, or outside of the memory that the kernel knows: it fails when those before it are complete.
            guard engine.oldestReceive(of: qpn) == receive.index else {
                index = receive.index
                break
            }
            let isShort = receive.byteCount < queue.frameByteCount
            engine.completeInPlace(
                receive.index, of: qpn, status: isShort ? .localLengthError : .localProtectionError, byteCount: 0,
                FrameFacts())
        }
        if isPosted { queue.submit() }
        return index
    }

    /// The pages of a region, and one before them, for the kernel's headroom before the first buffer.
    private func open(_ receive: Engine.ReceiveInPlace) {
        guard let base = unsafe receive.region.baseAddress else { return }
        let first = UInt(bitPattern: base) & ~4095
        let end = unsafe (UInt(bitPattern: base) + UInt(receive.region.count) + 4095) & ~4095
        for start in [first - 4096, first] {
            guard let memory = unsafe UnsafeMutableRawPointer(bitPattern: start) else { continue }
            do throws(PacketIOError) {
                let opened = unsafe try XDPDirectQueue(
                    interface: interface.index, queue: 0,
                    memory: UnsafeMutableRawBufferPointer(start: memory, count: Int(end - start)),
                    frameByteCount: frameByteCount, depth: Int(Self.depth))
                try table.setSocket(0, to: opened.descriptor)
                queue = consume opened
                generation += 1
                failure = nil
                return
            } catch {
                // Perhaps the page before is not ours: without it.
                failure = XDPPlace.refusal(error, interface)
            }
        }
    }

    /// Takes the receives back from the kernel; none of them is written to any more.
    func close(_ engine: inout Engine, _ qpn: QPN) {
        // What has arrived is the receiver's.
        takeArrivals(&engine, qpn)
        engine.endReceivesInPlace(of: qpn)
        next = nil
        isAwaiting = false
        guard queue != nil else { return }
        dropped += (queue?.tooLongCount ?? 0) + (queue?.unbufferedCount ?? 0)
        queue = nil
    }
}
