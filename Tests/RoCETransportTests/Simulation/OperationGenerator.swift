// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Draws one operation after the other, posts it, and tells the checkers what it must do.
enum OperationGenerator {
    typealias Piece = (offset: Int, count: Int)

    /// Parts of a range, in order; with `gap`, bytes between them belong to none.
    static func split(_ range: Range<Int>, _ countMax: Int, gap: Bool, _ g: inout SeededGenerator) -> [Piece] {
        let count = 1 + g.below(countMax)
        let cuts = (0..<count - 1).map { _ in g.below(range.count + 1) }.sorted()
        var pieces: [Piece] = []
        var start = 0
        for (index, end) in (cuts + [range.count]).enumerated() {
            pieces.append((range.lowerBound + start + (gap ? index * 16 : 0), end - start))
            start = end
        }
        return pieces
    }

    static func length(_ options: WorkloadOptions, _ g: inout SeededGenerator) -> Int {
        switch g.below(5) {
        case 0: g.below(9)
        case 1: min(options.byteCountMax, options.mtu.byteCount * (1 + g.below(3)))
        case 2: min(options.byteCountMax, max(0, options.mtu.byteCount - 1 + g.below(3)))
        default: g.below(options.byteCountMax + 1)
        }
    }

    static func post(_ endpoint: WorkloadEndpoint, _ options: WorkloadOptions, _ g: inout SeededGenerator) {
        let id = endpoint.nextID
        endpoint.nextID += 1
        endpoint.remaining -= 1
        let slot = endpoint.freeSlots.removeLast()
        let mustSignal = endpoint.remaining == 0 || endpoint.freeSlots.count <= endpoint.slots.count / 2
        let isSignaled = mustSignal || g.chance(options.signalProbability)
        var flags: SendFlags = isSignaled ? .signaled : []
        if g.chance(0.1) { flags.insert(.fence) }
        if g.chance(0.2) { flags.insert(.solicited) }
        var draft = Draft(
            endpoint: endpoint, slot: slot, request: SendWorkRequest(id: id, operation: .send, flags: flags),
            sent: PostedSend(
                id: id, operation: .send, isSignaled: isSignaled,
                slot: endpoint.slots.firstIndex { $0 == slot }!))
        switch g.below(12) {
        case 0...2: draft.send(options, &g)
        case 3...5: draft.write(options, &g)
        case 6...8: draft.read(options, &g)
        case 9: draft.atomic(&g)
        case 10: draft.sharedAdd()
        default: draft.window(&g)
        }
        draft.post(options, &g)
    }

    /// A work request in the making.
    struct Draft {
        let endpoint: WorkloadEndpoint
        let slot: Range<Int>
        var request: SendWorkRequest
        var sent: PostedSend
        var pieces: [Piece] = []
        var payload: [UInt8]?

        private var peer: WorkloadEndpoint { endpoint.peer }
        private var memory: MemoryModel { endpoint.machine.memory }

        mutating func send(_ options: WorkloadOptions, _ g: inout SeededGenerator) {
            let hasImmediate = g.chance(0.5)
            request = request.with(hasImmediate ? .sendWithImmediate : .send)
            request.immediate = UInt32(truncatingIfNeeded: g.next())
            let bytes = fill(OperationGenerator.length(options, &g), options, &g)
            peer.messages.append(
                ExpectedMessage(bytes: bytes, immediate: hasImmediate ? request.immediate : nil, isWrite: false))
        }

        mutating func write(_ options: WorkloadOptions, _ g: inout SeededGenerator) {
            let hasImmediate = g.chance(0.3)
            request = request.with(hasImmediate ? .rdmaWriteWithImmediate : .rdmaWrite)
            request.immediate = UInt32(truncatingIfNeeded: g.next())
            let bytes = fill(OperationGenerator.length(options, &g), options, &g)
            let offset = peer.target.lowerBound + g.below(peer.target.count - bytes.count + 1)
            setRemote(offset)
            let range = offset..<offset + bytes.count
            // A repeated READ reads again, so a WRITE must wait for READs of the same bytes.
            if endpoint.sends.posted.contains(where: { $0.readRange?.overlaps(range) ?? false }) {
                request.flags.insert(.fence)
            }
            peer.machine.memory.expect(bytes, at: offset)
            if hasImmediate {
                peer.messages.append(
                    ExpectedMessage(bytes: bytes, immediate: request.immediate, isWrite: true))
            }
        }

        mutating func read(_ options: WorkloadOptions, _ g: inout SeededGenerator) {
            request = request.with(.rdmaRead)
            let count = OperationGenerator.length(options, &g)
            let offset = peer.target.lowerBound + g.below(peer.target.count - count + 1)
            setRemote(offset)
            pieces = OperationGenerator.split(
                slot.lowerBound..<slot.lowerBound + count, options.scatterGatherMax, gap: true, &g)
            sent.readRange = offset..<offset + count
            var start = offset
            for piece in pieces {
                sent.result.append((piece.offset, Array(peer.machine.memory.expected[start..<start + piece.count])))
                start += piece.count
            }
        }

        mutating func atomic(_ g: inout SeededGenerator) {
            let offset = peer.words.lowerBound + 8 * g.below(8)
            setRemote(offset)
            let memory = peer.machine.memory
            let before = memory.expected.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self) }
            request.compareAdd = g.chance(0.5) ? before : g.next()
            request.swap = g.next()
            if g.chance(0.5) {
                request = request.with(.fetchAndAdd)
                memory.expectWord(before &+ request.compareAdd, at: offset)
            } else {
                request = request.with(.compareAndSwap)
                if request.compareAdd == before { memory.expectWord(request.swap, at: offset) }
            }
            pieces = [(slot.lowerBound, 8)]
            sent.result = [(slot.lowerBound, withUnsafeBytes(of: before) { Array($0) })]
        }

        mutating func sharedAdd() {
            request = request.with(.fetchAndAdd)
            setRemote(peer.machine.sharedWord.lowerBound)
            request.compareAdd = 1
            peer.machine.sharedAdds += 1
            pieces = [(slot.lowerBound, 8)]
            sent.sharedResult = slot.lowerBound
        }

        mutating func window(_ g: inout SeededGenerator) {
            guard let key = endpoint.windowKey else { return }
            if endpoint.isWindowBound {
                request = request.with(.localInvalidate)
                request.immediate = key.rawValue
            } else {
                request = request.with(.bindWindow)
                let next = key.with(variant: key.variant &+ 1)
                request.bindWindowKey = key.rawValue
                request.bindNewKey = next.rawValue
                request.bindRegionKey = endpoint.machine.localKey.rawValue
                request.bindAddress = UInt64(endpoint.target.lowerBound) &+ endpoint.machine.localOffset
                request.bindLength = UInt64(endpoint.target.count)
                request.bindAccess = [.remoteRead, .remoteWrite]
                endpoint.windowKey = next
            }
            endpoint.isWindowBound.toggle()
        }

        private mutating func setRemote(_ offset: Int) {
            request.remoteAddress = UInt64(offset) &+ peer.machine.localOffset
            request.remoteKey = peer.machine.localKey.rawValue
        }

        /// Random bytes in the slot, or beside it to be sent inline.
        private mutating func fill(
            _ count: Int, _ options: WorkloadOptions, _ g: inout SeededGenerator
        ) -> [UInt8] {
            if count <= options.inlineMax, g.chance(0.5) {
                let bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: g.next()) }
                payload = bytes
                return bytes
            }
            pieces = OperationGenerator.split(
                slot.lowerBound..<slot.lowerBound + count, options.scatterGatherMax, gap: true, &g)
            var bytes: [UInt8] = []
            for piece in pieces {
                let range = piece.offset..<piece.offset + piece.count
                memory.fill(range, &g)
                bytes += memory.bytes(range)
            }
            return bytes
        }

        mutating func post(_ options: WorkloadOptions, _ g: inout SeededGenerator) {
            sent.operation = request.operation
            request.remoteQPN = peer.machine.sharedNumber
            endpoint.sends.add(sent)
            let machine = endpoint.machine
            if let payload {
                machine.node.postInline(endpoint.queues, request, payload)
            } else {
                machine.node.post(
                    endpoint.queues, request,
                    pieces.map {
                        ScatterGatherEntry(
                            address: UInt64($0.offset) &+ machine.localOffset, length: UInt32($0.count),
                            lkey: machine.localKey.rawValue)
                    })
            }
        }
    }
}

extension SendWorkRequest {
    func with(_ operation: SendOperation) -> SendWorkRequest {
        var copy = self
        copy.operation = operation
        return copy
    }
}
