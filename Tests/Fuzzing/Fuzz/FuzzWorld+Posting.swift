// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

// Work requests, near valid ones.
extension FuzzWorld {
    /// Posts a send, if the queue has room and the state takes posts.
    func postSend(_ index: Int, _ input: inout FuzzInput) {
        let queue = queuePairs[index].queues.sendQueue
        // A target of XRC sends nothing: posts to it are refused above the engine.
        guard queuePairs[index].type != .xrcTarget, queue.freeCount > 0,
            state(index).rawValue >= QueuePairState.readyToSend.rawValue
        else { return }
        var request = sendRequest(&input)
        if queuePairs[index].type == .xrcInitiator, !input.oneIn(16) { request.remoteQPN = extendedQueue.number }
        let slot = queue.slot(0)
        slot.pointee = request
        if request.flags.contains(.inline) {
            slot.pointee.inlineLength = UInt32(input.below(queue.inlineMax + 1))
            let data = queue.inlineData(of: slot)
            for offset in 0..<queue.inlineMax { data.storeBytes(of: 0x11, toByteOffset: offset, as: UInt8.self) }
        } else {
            let count = input.below(queue.scatterGatherMax + 1)
            slot.pointee.scatterGatherCount = UInt16(count)
            for entry in 0..<count {
                queue.scatterGatherList(of: slot)[entry] = scatterGatherEntry(&input, isSend: true)
            }
        }
        if !isHonest, input.oneIn(4) {
            slot.pointee.inlineLength = input.integer()
            slot.pointee.scatterGatherCount = input.integer()
        }
        noteSend(index, id: request.id, isSignaled: request.flags.contains(.signaled))
        queue.publish(1)
        onDataPath { engine.pointee.doorbell(queuePairs[index].queues.qpn) }
    }

    private func sendRequest(_ input: inout FuzzInput) -> SendWorkRequest {
        let operation = input.oneIn(32) ? input.byte() : UInt8(input.below(10))
        var request = SendWorkRequest(
            id: nextID, operation: SendOperation(rawValue: operation), flags: SendFlags(rawValue: input.byte()))
        nextID += 1
        request.immediate = 0x0102_0304
        request.compareAdd = UInt64(input.byte())
        request.swap = 7
        request.address = AddressVector(destination: input.oneIn(4) ? Self.peer : Self.own, localIndex: 0)
        request.remoteQPN = input.pick(queuePairs).queues.qpn.rawValue
        request.remoteQKey = input.oneIn(8) ? input.integer() : 0x1234
        switch request.operation {
        case .bindWindow: fillBind(&request, &input)
        case .localInvalidate: request.remoteKey = input.pick(windows).rawValue
        default:
            request.remoteAddress = memory.address(&input)
            request.remoteKey = memory.key(&input, windows: windows)
        }
        return request
    }

    private func fillBind(_ request: inout SendWorkRequest, _ input: inout FuzzInput) {
        let place = input.below(windows.count)
        let window = windows[place]
        let bound = window.with(variant: input.oneIn(8) ? input.byte() : window.variant &+ 1)
        request.bindWindowKey = window.rawValue
        request.bindNewKey = bound.rawValue
        request.bindRegionKey = memory.key(&input, windows: windows)
        request.bindAddress = memory.address(&input)
        request.bindLength = input.oneIn(16) ? input.integer() : UInt64(FuzzMemory.length(&input))
        request.bindAccess = AccessFlags(rawValue: UInt32(input.byte()))
        // Whether the bind succeeds or not: the input then tries both keys.
        windows[place] = bound
    }

    func scatterGatherEntry(_ input: inout FuzzInput, isSend: Bool) -> ScatterGatherEntry {
        if !input.oneIn(8) {
            let region = memory.region(isSend && input.oneIn(2) ? .local : .open)
            guard let key = region.key else { return ScatterGatherEntry(address: 0, length: 0, lkey: 0) }
            let offset = input.below(region.byteCount)
            let length = min(input.below(1200), region.byteCount - offset)
            return ScatterGatherEntry(
                address: FuzzMemory.address(region.offset + offset), length: UInt32(length), lkey: key.rawValue)
        }
        return ScatterGatherEntry(
            address: memory.address(&input), length: FuzzMemory.length(&input),
            lkey: memory.key(&input, windows: windows))
    }

    /// Posts a receive, if the queue has room. In RESET nothing may be posted, and no queue pair stays there.
    func postReceive(_ index: Int, _ input: inout FuzzInput) {
        guard let queue = receiveQueue(index) else { return }
        let slot = queue.slot(0)
        let count = input.below(queue.scatterGatherMax + 1)
        slot.pointee = ReceiveWorkRequest(id: nextID, scatterGatherCount: count)
        for entry in 0..<count { queue.scatterGatherList(of: slot)[entry] = scatterGatherEntry(&input, isSend: false) }
        if !isHonest, input.oneIn(4) { slot.pointee.scatterGatherCount = input.integer() }
        noteReceive(index, id: nextID)
        nextID += 1
        queue.publish(1)
        if queue.needsDoorbell { onDataPath { engine.pointee.doorbell(queuePairs[index].queues.qpn) } }
    }
}
