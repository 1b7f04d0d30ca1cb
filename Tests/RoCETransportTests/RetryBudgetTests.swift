// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

// SPDX-License-Identifier: Apache-2.0
@testable import RoCETransport

/// Two engines, and a count of the frames between them by PSN.
private final class CountedPair {
    let pair: ConnectedPair
    private(set) var requests: [UInt32: Int] = [:]

    init(_ options: ConnectionOptions, isLost: @escaping (RoCEPacket) -> Bool) {
        pair = ConnectedPair(options: options)
        pair.world.network.observer = { [unowned self] frame in
            guard case .packet(let packet) = RoCEPacket.parse(frame.bytes.span.bytes), packet.descriptor.isRequest
            else { return }
            requests[packet.psn, default: 0] += 1
        }
        pair.world.network.filter = { frame in
            guard case .packet(let packet) = RoCEPacket.parse(frame.bytes.span.bytes) else { return false }
            return isLost(packet)
        }
    }

    func post(_ operation: SendOperation, length: Int) {
        var request = SendWorkRequest(id: 1, operation: operation)
        request.remoteAddress = pair.b.address(0)
        request.remoteKey = pair.b.key.rawValue
        pair.a.node.post(pair.a.queues, request, [pair.a.entry(0, length)])
        pair.settle()
    }

    var statuses: [CompletionStatus] { pair.a.node.poll(pair.a.sendCompletions).map(\.status) }
}

@Suite("Retry budgets, counted on the wire") struct RetryBudgetTests {
    @Test(
        "retry_cnt N is N repetitions into the void, whatever the request", arguments: UInt8(0)...7,
        [SendOperation.send, .rdmaWrite, .rdmaRead, .fetchAndAdd])
    func silence(count: UInt8, operation: SendOperation) {
        var options = ConnectionOptions()
        options.retryCount = count
        let counted = CountedPair(options) { _ in true }
        let start = counted.pair.world.now
        counted.post(operation, length: operation == .fetchAndAdd ? 8 : 5_000)
        #expect(counted.requests[options.sendPSN] == Int(count) + 1)
        #expect(counted.statuses == [.retriesExceeded])
        // Each within the four times the timeout that the specification allows.
        let timeout = UInt64(4_096) << UInt64(options.timeout)
        #expect(counted.pair.world.now - start >= timeout * (UInt64(count) + 1))
        #expect(counted.pair.world.now - start <= 4 * timeout * (UInt64(count) + 1))
    }

    @Test("A packet that never arrives uses up the budget, also where NAKs tell of it", arguments: UInt8(0)...7)
    func hole(count: UInt8) {
        var options = ConnectionOptions()
        options.retryCount = count
        let hole = options.sendPSN + 2
        let counted = CountedPair(options) { $0.descriptor.isRequest && $0.psn == hole }
        counted.post(.rdmaWrite, length: 8 * 1024)
        #expect(counted.requests[options.sendPSN] == 1, "what arrived is not sent again")
        #expect(counted.requests[hole] == Int(count) + 1)
        #expect(counted.statuses == [.retriesExceeded])
    }

    @Test("Answers that never arrive use up the budget, and the request is executed once", arguments: UInt8(0)...7)
    func lostAnswers(count: UInt8) {
        var options = ConnectionOptions()
        options.retryCount = count
        let counted = CountedPair(options) { $0.descriptor.isResponse }
        counted.post(.fetchAndAdd, length: 8)
        #expect(counted.requests[options.sendPSN] == Int(count) + 1)
        #expect(counted.statuses == [.retriesExceeded])
        #expect(counted.pair.b.node.engine.pointee.counters.duplicateRequests == UInt64(count))
    }

    @Test("rnr_retry N is N repetitions to a receiver without receives", arguments: UInt8(0)...6)
    func receiverNotReady(count: UInt8) {
        var options = ConnectionOptions()
        options.rnrRetry = count
        let counted = CountedPair(options) { _ in false }
        counted.post(.send, length: 100)
        #expect(counted.requests[options.sendPSN] == Int(count) + 1)
        #expect(counted.statuses == [.receiverNotReadyRetriesExceeded])
    }

    @Test("rnr_retry 7 waits for a receive as long as it takes, and spends no other retry")
    func patience() {
        var options = ConnectionOptions()
        options.retryCount = 0
        let counted = CountedPair(options) { _ in false }
        let pair = counted.pair
        pair.a.node.post(pair.a.queues, SendWorkRequest(id: 1, operation: .send), [pair.a.entry(0, 100)])
        pair.world.run { counted.requests[options.sendPSN] == 1_000 }
        pair.b.node.postReceive(pair.b.queues.receiveQueue, id: 5, [pair.b.entry(0, 100)])
        pair.settle()
        #expect(counted.statuses == [.success])
    }

    @Test("PSN and MSN wrap in the middle of a stream of messages")
    func wrap() {
        var options = ConnectionOptions()
        options.sendPSN = 0xFF_FFF0
        options.receivePSN = 0xFF_FFF8
        let pair = ConnectedPair(options: options)
        for side in [pair.a, pair.b] { side.node.setMessageSequence(side.queues.qpn, 0xFF_FFFC) }
        var numbers: [UInt32] = []
        pair.world.network.observer = { frame in
            guard case .packet(let packet) = RoCEPacket.parse(frame.bytes.span.bytes),
                packet.bth.opcode == .rcAcknowledge
            else { return }
            numbers += [packet.psn, packet.aeth.msn.rawValue]
        }
        for id in 0..<6 {
            var write = SendWorkRequest(id: UInt64(id), operation: .rdmaWrite)
            write.remoteAddress = pair.b.address(0)
            write.remoteKey = pair.b.key.rawValue
            pair.a.node.post(pair.a.queues, write, [pair.a.entry(0, 5 * 1024)])
            pair.settle()
        }
        #expect(
            pair.a.node.poll(pair.a.sendCompletions).map(\.status) == [CompletionStatus](repeating: .success, count: 6))
        #expect(
            numbers == [
                0xFF_FFF4, 0xFF_FFFD, 0xFF_FFF9, 0xFF_FFFE, 0xFF_FFFE, 0xFF_FFFF, 3, 0, 8, 1, 13, 2,
            ])
    }
}
