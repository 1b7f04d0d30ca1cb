// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Synchronization
import Testing

@testable import RoCETransport

@Suite("Regions without memory of their own") struct BoundlessMemoryTests {
    /// An address space of one page at 0x1000, each byte of which is the low one of its address, and what was written to it.
    private final class Page: Sendable {
        let written = Mutex<[UInt64: UInt8]>([:])

        var memory: CheckedMemory {
            CheckedMemory(
                read: { address, target in
                    guard address >= 0x1000, address + UInt64(target.count) <= 0x2000 else { return false }
                    for index in target.indices { target[index] = UInt8(truncatingIfNeeded: address + UInt64(index)) }
                    return true
                },
                write: { address, source in
                    guard address >= 0x1000, address + UInt64(source.count) <= 0x2000 else { return false }
                    self.written.withLock { written in
                        for (index, byte) in source.enumerated() { written[address + UInt64(index)] = byte }
                    }
                    return true
                })
        }
    }

    private func entry(_ key: MemoryKey, _ address: UInt64, _ length: UInt32) -> ScatterGatherEntry {
        ScatterGatherEntry(address: address, length: length, lkey: key.rawValue)
    }

    private func write(_ pair: ConnectedPair, _ list: [ScatterGatherEntry], key: MemoryKey? = nil, at offset: Int = 0) {
        var request = SendWorkRequest(id: 1, operation: .rdmaWrite, flags: .signaled)
        request.remoteAddress = pair.b.address(offset)
        request.remoteKey = (key ?? pair.b.key).rawValue
        pair.a.node.post(pair.a.queues, request, list)
        pair.settle()
    }

    @Test("A null region takes what it is given and gives zeros, at any address, over many packets")
    func null() throws {
        let pair = ConnectedPair()
        let key = try pair.b.node.engine.pointee.registerNullMemory(protectionDomain: 1, using: &pair.b.node.generator)
        let source = try pair.a.node.engine.pointee.registerNullMemory(
            protectionDomain: 1, using: &pair.a.node.generator)
        pair.a.fill(0..<100, 3)
        let before = Array(pair.b.memory)
        pair.b.node.postReceive(
            pair.b.queues.receiveQueue, id: 5, [pair.b.entry(0, 10), entry(key, .max - 3, 80), pair.b.entry(10, 10)])
        pair.a.node.post(
            pair.a.queues, SendWorkRequest(id: 1, operation: .send, flags: .signaled), [pair.a.entry(0, 100)])
        pair.settle()
        #expect(pair.b.node.poll(pair.b.receiveCompletions).map(\.byteLength) == [100])
        #expect(Array(pair.b.memory[0..<20]) == Array(pair.a.memory[0..<10]) + Array(pair.a.memory[90..<100]))
        #expect(Array(pair.b.memory[20...]) == Array(before[20...]))

        pair.b.fill(0..<20_000, 9)
        write(pair, [pair.a.entry(0, 10), entry(source, 77, 10_000), pair.a.entry(10, 10)])
        #expect(Array(pair.b.memory[0..<10]) == Array(pair.a.memory[0..<10]))
        #expect(pair.b.memory[10..<10_010].allSatisfy { $0 == 0 })
        #expect(Array(pair.b.memory[10_010..<10_020]) == Array(pair.a.memory[10..<20]))

        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.success, .success])
        write(pair, [pair.a.entry(0, 8)], key: key)
        // It is no key for peers.
        #expect(pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [.remoteAccessError])
        try pair.b.node.engine.pointee.deregisterMemory(key)
        #expect(throws: EngineError.unknownObject) { try pair.b.node.engine.pointee.deregisterMemory(key) }
    }

    @Test("The whole address space is read and written by the copies that its owner brought")
    func addressSpace() throws {
        let page = Page()
        let pair = ConnectedPair { $0.checkedMemory = page.memory }
        let (a, b) = (pair.a.node, pair.b.node)
        let key = try a.engine.pointee.registerAddressSpace(
            protectionDomain: 1, access: .localWrite, using: &a.generator)
        let other = try b.engine.pointee.registerAddressSpace(
            protectionDomain: 1, access: .localWrite, using: &b.generator)
        write(pair, [entry(key, 0x1010, 16), entry(key, 0x1FF0, 16)])
        #expect(a.poll(pair.a.sendCompletions).map(\.status) == [.success])
        #expect(Array(pair.b.memory[0..<32]) == Array(0x10..<0x20) + Array(0xF0...0xFF))
        b.postReceive(pair.b.queues.receiveQueue, id: 5, [pair.b.entry(0, 4), entry(other, 0x1234, 4)])
        a.post(
            pair.a.queues, SendWorkRequest(id: 1, operation: .send, flags: .signaled), [entry(key, 0x1000, 8)])
        pair.settle()
        #expect(b.poll(pair.b.receiveCompletions).map(\.status) == [.success])
        #expect(page.written.withLock { $0 } == [0x1234: 4, 0x1235: 5, 0x1236: 6, 0x1237: 7])
        #expect(throws: EngineError.self) {
            try a.engine.pointee.registerAddressSpace(
                protectionDomain: 1, access: [.localWrite, .remoteRead], using: &a.generator)
        }
    }

    @Test("What is not there ends the work request with a protection error", arguments: [true, false])
    func missing(isReceive: Bool) throws {
        let page = Page()
        let pair = ConnectedPair { $0.checkedMemory = page.memory }
        let (a, b) = (pair.a.node, pair.b.node)
        if isReceive {
            let key = try b.engine.pointee.registerAddressSpace(
                protectionDomain: 1, access: .localWrite, using: &b.generator)
            b.postReceive(pair.b.queues.receiveQueue, id: 5, [entry(key, 0x1FFC, 8)])
            a.post(
                pair.a.queues, SendWorkRequest(id: 1, operation: .send, flags: .signaled), [pair.a.entry(0, 8)])
            pair.settle()
            #expect(b.poll(pair.b.receiveCompletions).map(\.status) == [.localProtectionError])
            #expect(a.poll(pair.a.sendCompletions).map(\.status) == [.remoteOperationError])
        } else {
            let key = try a.engine.pointee.registerAddressSpace(protectionDomain: 1, access: [], using: &a.generator)
            write(pair, [entry(key, 0x1FFC, 8)])
            #expect(a.poll(pair.a.sendCompletions).map(\.status) == [.localProtectionError])
        }
    }

    @Test("Without copies that find out, there is no region of the whole address space")
    func unavailable() {
        let pair = ConnectedPair()
        #expect(throws: EngineError.self) {
            try pair.a.node.engine.pointee.registerAddressSpace(
                protectionDomain: 1, access: [], using: &pair.a.node.generator)
        }
    }
}
