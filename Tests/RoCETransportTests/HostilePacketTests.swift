// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// Packets that nobody honest sends, with right ICRCs: the engine may drop, refuse or close, but neither trap nor touch
/// memory outside of what it was given.
@Suite("Hostile packets") struct HostilePacketTests {
    /// A responder and requester in full swing, whose peer has lost its mind.
    private final class Target {
        let peer: ScriptedPeer
        let memory: MemoryModel
        let key: MemoryKey
        var generator: SeededGenerator

        static var options: ConnectionOptions {
            var options = ConnectionOptions()
            options.access.insert(.flushGlobal)
            return options
        }

        init(seed: UInt64, type: QueuePairType) {
            generator = SeededGenerator(seed: seed)
            peer = ScriptedPeer(type: type, options: Self.options)
            memory = MemoryModel(byteCount: 40_000, canary: 0xCA)
            let inner = UnsafeMutableRawBufferPointer(rebasing: memory.memory[4_000..<36_000])
            key = peer.node.register(
                inner, iova: 0x4000,
                access: [.localWrite, .remoteWrite, .remoteRead, .remoteAtomic, .windowBind, .flushGlobal])
            for id in 0..<16 {
                peer.node.postReceive(
                    peer.queues.receiveQueue, id: UInt64(id),
                    [
                        ScatterGatherEntry(
                            address: 0x4000 + UInt64(id * 2_000), length: UInt32(generator.below(2_001)),
                            lkey: key.rawValue)
                    ])
            }
            for id in 0..<6 {
                let operations: [SendOperation] =
                    type == .rc ? [.send, .rdmaRead, .fetchAndAdd, .rdmaWrite, .rdmaRead, .send] : [.send]
                var request = SendWorkRequest(id: UInt64(id), operation: operations[id % operations.count])
                request.address = AddressVector(destination: peer.peer, localIndex: 0)
                let length: UInt32 = request.operation == .fetchAndAdd ? 8 : 3_000
                peer.node.post(
                    peer.queues, request,
                    [ScatterGatherEntry(address: 0x4000 + UInt64(id * 4_000), length: length, lkey: key.rawValue)])
            }
            peer.drain()
        }

        func psn() -> UInt32 {
            switch generator.below(4) {
            case 0: 0x200 &+ UInt32(generator.below(8)) &- 4
            case 1: 0x100 &+ UInt32(generator.below(14)) &- 2
            case 2: UInt32(truncatingIfNeeded: generator.next()) & 0xFF_FFFF
            default: try! peer.node.engine.pointee.queryQueuePair(peer.queues.qpn).receivePSN
            }
        }

        func address() -> UInt64 {
            switch generator.below(4) {
            case 0: generator.next()
            case 1: 0x4000 + 32_000 &- UInt64(generator.below(40))
            case 2: UInt64.max - UInt64(generator.below(40))
            default: 0x4000 + UInt64(generator.below(32_000))
            }
        }

        func length() -> UInt32 {
            switch generator.below(4) {
            case 0: UInt32(truncatingIfNeeded: generator.next())
            case 1: 32_000
            case 2: 0x8000_0000
            default: UInt32(generator.below(5_000))
            }
        }

        func step() {
            let opcode = Opcode(rawValue: UInt8(generator.below(4) == 0 ? generator.below(256) : generator.below(0x1E)))
            let size = generator.pick([0, 1, 8, 1023, 1024, 1025, 4096, generator.below(1500)])
            let payload = [UInt8](repeating: 0x66, count: opcode.descriptor.exactPayloadByteCount ?? size)
            let key = generator.chance(0.8) ? key : MemoryKey(rawValue: UInt32(truncatingIfNeeded: generator.next()))
            peer.arrive(
                opcode, psn: psn(), payload: payload, acknowledgeRequest: generator.chance(0.5),
                solicited: generator.chance(0.1)
            ) { packet in
                let headers = packet.descriptor.headers
                if headers.contains(.reth) {
                    packet.reth = RETH(virtualAddress: address(), rkey: key, length: length())
                }
                if headers.contains(.atomicETH) {
                    packet.atomicETH = AtomicETH(
                        virtualAddress: generator.chance(0.7) ? address() & ~7 : address(), rkey: key,
                        swapOrAdd: generator.next(), compare: 0)
                }
                if headers.contains(.aeth) {
                    packet.aeth = AETH(
                        syndrome: Syndrome(rawValue: UInt8(truncatingIfNeeded: generator.next() >> 9)),
                        msn: MSN(truncating: 5))
                }
                if headers.contains(.deth) {
                    packet.deth = DETH(
                        queueKey: QueueKey(rawValue: generator.chance(0.8) ? 0x1234 : 1), source: QPN(truncating: 9))
                }
                if headers.contains(.ieth) { packet.ieth = IETH(rkey: key) }
                if headers.contains(.feth) { packet.feth = FETH(rawValue: UInt32(generator.below(64))) }
            }
            if generator.chance(0.05) { peer.passTime() }
        }

        /// Back to a working connection, as after an application has noticed.
        func revive() {
            guard peer.state == .error else { return }
            _ = (peer.pollSends(), peer.pollReceives())
            peer.node.modify(peer.queues.qpn, .state) { $0.state = .reset }
            peer.node.connect(peer.queues.qpn, type: .rc, to: peer.peer, peer.remoteQPN, Self.options)
        }
    }

    @Test("Random packets of any kind touch nothing but the region", arguments: [QueuePairType.rc, .uc, .ud])
    func random(type: QueuePairType) {
        for seed in 0..<60 as Range<UInt64> {
            let target = Target(seed: seed, type: type)
            for _ in 0..<150 {
                target.step()
                if type == .rc { target.revive() }
            }
            let memory = target.memory
            #expect(memory.firstDifference(in: 0..<4_000) == nil, "seed \(seed)")
            #expect(memory.firstDifference(in: 36_000..<40_000) == nil, "seed \(seed)")
            #expect(target.peer.memory.allSatisfy { $0 == 0 }, "seed \(seed)")
        }
    }

    @Test("Captured packets with flipped bits, and cut short, are dropped or refused")
    func mutated() throws {
        let packets = try capturedPackets("rc_ops.pcap") + capturedPackets("k612/rc_atomic_write.pcap")
        var generator = SeededGenerator(seed: 77)
        let target = Target(seed: 1, type: .rc)
        for _ in 0..<6_000 {
            var bytes = generator.pick(packets).bytes
            for _ in 0..<generator.below(6) { bytes[generator.below(min(bytes.count, 44))] ^= 1 << generator.below(8) }
            if generator.chance(0.2) { bytes.removeLast(generator.below(bytes.count)) }
            if generator.chance(0.1) { bytes.append(contentsOf: [0, 0, 0, 0]) }
            if bytes.count >= 16, generator.chance(0.9) {
                let qpn = target.peer.queues.qpn.rawValue
                for (step, shift) in [(5, 16), (6, 8), (7, 0)] as [(Int, UInt32)] {
                    bytes[step] = UInt8(truncatingIfNeeded: qpn >> shift)
                }
                let psn = target.psn()
                for (step, shift) in [(9, 16), (10, 8), (11, 0)] as [(Int, UInt32)] {
                    bytes[step] = UInt8(truncatingIfNeeded: psn >> shift)
                }
                bytes.withUnsafeMutableBytes { buffer in
                    var span = buffer.mutableBytes
                    let flow = ICRC.Flow(
                        source: target.peer.peer, destination: target.peer.node.gid, sourcePort: 50_000)
                    ICRC.seal(&span, ICRC.seed(flow, udpPayloadByteCount: buffer.count))
                }
            }
            target.peer.node.receive(
                bytes, from: DatagramOrigin(source: target.peer.peer, sourcePort: 50_000, localIndex: 0),
                now: target.peer.now)
            target.peer.drain()
            _ = target.peer.takeSent()
            target.revive()
        }
        #expect(target.memory.firstDifference(in: 0..<4_000) == nil)
        #expect(target.memory.firstDifference(in: 36_000..<40_000) == nil)
        let counters = target.peer.counters
        #expect(counters.droppedMalformed > 0 && counters.refusalsSent > 0 && counters.droppedSequence > 0)
    }
}
