// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Congestion: marks and notifications") struct CongestionRuleTests {
    private let zeroes = [UInt8](repeating: 0, count: 16)

    @Test("Frames are capable of marks where we obey them: RC to another host, with congestion control")
    func capability() {
        func trafficClasses(_ type: QueuePairType, control: Bool = true) -> Set<UInt8> {
            let pair = ConnectedPair(type: type, configure: { $0.congestionControl = control })
            var seen: Set<UInt8> = []
            pair.world.network.observer = { seen.insert($0.origin.trafficClass) }
            pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 1, [pair.b.entry(0, 100)])
            pair.a.node.post(pair.a.queues, SendWorkRequest(id: 1, operation: .send), [pair.a.entry(0, 100)])
            pair.settle()
            return seen
        }
        #expect(trafficClasses(.rc) == [2])
        #expect(trafficClasses(.rc, control: false) == [0])
        #expect(trafficClasses(.uc) == [0])
    }

    @Test("To a queue pair of the same host frames are as they were")
    func sameHost() {
        let node = SimulatedNode(address: 0x0A03_0001, seed: 5)
        let world = SimulatedWorld(nodes: [node], network: SimulatedNetwork(options: NetworkOptions(), seed: 1))
        var seen: Set<UInt8> = []
        world.network.observer = { seen.insert($0.origin.trafficClass) }
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: 0)
        defer { memory.deallocate() }
        let key = node.register(memory)
        let completions = node.makeCompletionQueue()
        let creation = QueuePairCreation(
            type: .rc, protectionDomain: 1, sendCompletionQueue: completions, receiveCompletionQueue: completions)
        let a = node.makeQueuePair(creation)
        let b = node.makeQueuePair(creation)
        var options = ConnectionOptions()
        options.receivePSN = options.sendPSN
        node.connect(a.qpn, type: .rc, to: node.gid, b.qpn, options)
        node.connect(b.qpn, type: .rc, to: node.gid, a.qpn, options)
        var write = SendWorkRequest(id: 1, operation: .rdmaWrite)
        write.remoteAddress = UInt64(UInt(bitPattern: memory.baseAddress!))
        write.remoteKey = key.rawValue
        node.post(
            a, write, [ScatterGatherEntry(address: write.remoteAddress, length: 100, lkey: key.rawValue)])
        world.run { false }
        #expect(node.poll(completions).map(\.status) == [.success])
        #expect(seen == [0])
    }

    @Test("A second mark soon after the first takes off an eighth")
    func secondMark() {
        let peer = ScriptedPeer { $0.windowInitialBytes = 32 * 1024 }
        peer.post(.rdmaWrite, length: 128 * 1024)
        #expect(peer.takeSent().count == 32)
        peer.arrive(.congestionNotification, psn: 0, payload: zeroes)
        peer.acknowledge(0x11F)
        #expect(peer.takeSent().count == 16)
        peer.arrive(.congestionNotification, psn: 0, payload: zeroes)
        peer.acknowledge(0x12F)
        #expect(peer.takeSent().count == 14)
    }

    @Test("Without congestion control a notification is counted, and the window is the largest")
    func switchedOff() {
        let peer = ScriptedPeer {
            $0.congestionControl = false
            $0.windowMaxBytes = 16 * 1024
        }
        peer.post(.rdmaWrite, length: 64 * 1024)
        #expect(peer.takeSent().count == 16)
        peer.arrive(.congestionNotification, psn: 0, payload: zeroes)
        peer.acknowledge(0x10F)
        #expect(peer.takeSent().count == 16)
        #expect(peer.counters.congestionNotifications == 1)
    }

    @Test("A READ response with the mark narrows what is asked for, and its sender is told too")
    func markedResponse() {
        let peer = ScriptedPeer { $0.windowInitialBytes = 8 * 1024 }
        peer.post(.rdmaRead, length: 64 * 1024)
        #expect(peer.takeSent().map { Int($0.reth.length) } == [8 * 1024])
        let full = [UInt8](repeating: 9, count: 1024)
        for psn in 0x100...0x107 as ClosedRange<UInt32> {
            peer.arrive(.rcReadResponseMiddle, psn: psn, payload: full, trafficClass: psn == 0x100 ? 3 : 2)
        }
        let sent = peer.takeSent()
        #expect(sent.filter { $0.bth.opcode == .congestionNotification }.count == 1)
        let requests = sent.filter { $0.bth.opcode == .rcReadRequest }
        #expect(requests.reduce(0) { $0 + Int($1.reth.length) } == 4 * 1024)
    }

    @Test("An acknowledgement with the mark tells nobody to send less")
    func markedAcknowledgement() {
        let peer = ScriptedPeer()
        peer.post(.rdmaWrite)
        peer.arrive(.rcAcknowledge, psn: 0x100, trafficClass: 3) {
            $0.aeth = AETH(syndrome: .acknowledged, msn: MSN(truncating: 1))
        }
        #expect(peer.takeSent().map(\.brief) == ["RC WRITE ONLY 256"])
        #expect(peer.pollSends().map(\.status) == [.success])
        #expect(peer.counters.congestionMarks == 0)
    }
}
