// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

/// What is half received on UC neither completes nor spoils what follows.
@Suite("Losses on unreliable connections") struct UnreliableLossTests {
    private let full = [UInt8](repeating: 0x44, count: 1024)

    private func write(
        _ peer: ScriptedPeer, _ opcode: Opcode, _ psn: UInt32, _ payload: [UInt8], length: Int, at offset: Int = 0,
        key: MemoryKey? = nil
    ) {
        peer.arrive(opcode, psn: psn, payload: payload) {
            if $0.descriptor.headers.contains(.reth) {
                $0.reth = RETH(
                    virtualAddress: peer.address(offset), rkey: key ?? peer.key, length: UInt32(length))
            }
            if $0.descriptor.headers.contains(.immDt) { $0.immDt = ImmDt(networkOrderValue: 3) }
        }
    }

    @Test("Whichever packet of a message is lost, nothing completes and the next message does", arguments: 0..<4)
    func eachPacket(lost: Int) {
        let peer = ScriptedPeer(type: .uc)
        peer.postReceive(id: 1, length: 4096)
        peer.postReceive(id: 2, length: 4096)
        let opcodes: [Opcode] = [.ucSendFirst, .ucSendMiddle, .ucSendMiddle, .ucSendLast]
        for (index, opcode) in opcodes.enumerated() where index != lost {
            peer.arrive(opcode, psn: 0x200 + UInt32(index), payload: full)
        }
        #expect(peer.pollReceives().isEmpty)
        peer.arrive(.ucSendFirst, psn: 0x204, payload: [UInt8](repeating: 1, count: 1024))
        peer.arrive(.ucSendLast, psn: 0x205, payload: [2])
        let entries = peer.pollReceives()
        #expect(entries.map(\.id) == [1], "the receive of the broken message serves the next")
        #expect(entries.map(\.byteLength) == [1025])
        #expect(peer.memory[65_536..<65_536 + 1024].allSatisfy { $0 == 1 })
        #expect(peer.memory[65_536 + 1024] == 2)
    }

    @Test("A WRITE with immediate whose middle is lost uses no receive, and writes nothing behind the gap")
    func writeWithImmediate() {
        let peer = ScriptedPeer(type: .uc)
        peer.postReceive(id: 1)
        write(peer, .ucWriteFirst, 0x200, full, length: 3_072)
        write(peer, .ucWriteLastImmediate, 0x202, full, length: 0)
        #expect(peer.pollReceives().isEmpty)
        #expect(peer.memory[1024..<3_072].allSatisfy { $0 == 0 })
        #expect(peer.counters.droppedSequence == 1)
        write(peer, .ucWriteOnlyImmediate, 0x203, [9], length: 1, at: 4_000)
        #expect(peer.pollReceives().map(\.id) == [1])
        #expect(peer.memory[4_000] == 9)
    }

    @Test("A FIRST or ONLY in the middle of a message starts afresh, with any PSN")
    func firstInside() {
        let peer = ScriptedPeer(type: .uc)
        peer.postReceive(id: 1)
        peer.arrive(.ucSendFirst, psn: 0x200, payload: full)
        write(peer, .ucWriteFirst, 0x201, full, length: 1_025)
        peer.arrive(.ucSendLast, psn: 0x202, payload: [1])
        #expect(peer.counters.droppedRequest == 1, "it goes on with the other operation")
        peer.arrive(.ucSendOnly, psn: 0x50_0000, payload: [7])
        #expect(peer.pollReceives().map(\.byteLength) == [1])
        #expect(peer.memory[65_536] == 7)
        peer.arrive(.ucSendLast, psn: 0x50_0001, payload: [1])
        #expect(peer.pollReceives().isEmpty)
    }

    @Test("What is wrong in the middle of a message drops the rest of it, without a word", arguments: 0..<4)
    func wrongInside(which: Int) throws {
        let peer = ScriptedPeer(type: .uc)
        let key = peer.node.register(peer.memory, iova: 0x10_0000)
        peer.postReceive(id: 1, length: 1_500)
        switch which {
        case 0:  // MIDDLE of another length
            peer.arrive(.ucSendFirst, psn: 0x200, payload: full)
            peer.arrive(.ucSendMiddle, psn: 0x201, payload: [1, 2, 3, 4])
        case 1:  // longer than the receive
            peer.arrive(.ucSendFirst, psn: 0x200, payload: full)
            peer.arrive(.ucSendMiddle, psn: 0x201, payload: full)
        case 2:  // longer than it said
            write(peer, .ucWriteFirst, 0x200, full, length: 2_000, key: key)
            write(peer, .ucWriteMiddle, 0x201, full, length: 0)
        default:  // the region goes
            write(peer, .ucWriteFirst, 0x200, full, length: 3_000, key: key)
            try peer.node.engine.pointee.deregisterMemory(key)
            write(peer, .ucWriteMiddle, 0x201, full, length: 0)
        }
        peer.arrive(which < 2 ? .ucSendLast : .ucWriteLast, psn: 0x202, payload: [1])
        #expect(peer.takeSent().isEmpty)
        #expect(peer.pollReceives().isEmpty)
        #expect(peer.state == .readyToSend)
        #expect(peer.counters.droppedRequest == 1 && peer.counters.droppedSequence == 1)
        #expect(peer.memory[1024..<2048].allSatisfy { $0 == 0 })
        peer.arrive(.ucSendOnly, psn: 0x203, payload: [5])
        #expect(peer.pollReceives().map(\.id) == [1])
    }

    @Test("The receive of a message that never ends is flushed with the others")
    func flushed() {
        let peer = ScriptedPeer(type: .uc)
        peer.postReceive(id: 1)
        peer.postReceive(id: 2)
        peer.arrive(.ucSendFirst, psn: 0x200, payload: full)
        peer.node.modify(peer.queues.qpn, .state) { $0.state = .error }
        peer.drain()
        #expect(peer.pollReceives().map(\.id) == [1, 2])
    }

    @Test("A receive whose own memory is wrong fails, and ends the queue pair, instead of standing in the way")
    func badReceive() {
        let peer = ScriptedPeer(type: .uc)
        peer.node.postReceive(
            peer.queues.receiveQueue, id: 6,
            [ScatterGatherEntry(address: peer.address(0), length: 64, lkey: peer.key.rawValue ^ 0x100)])
        peer.postReceive(id: 7)
        peer.arrive(.ucSendOnly, psn: 0x200, payload: [1])
        #expect(peer.pollReceives().map(\.status) == [.localProtectionError, .flushed])
        #expect(peer.state == .error)
        #expect(peer.events == [.fatal])
        #expect(peer.takeSent().isEmpty)
    }
}
