// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Sequence numbers of RC") struct SequenceNumberTests {
    private let full = [UInt8](repeating: 0x22, count: 1024)

    private func options(sendPSN: UInt32 = 0x100, receivePSN: UInt32 = 0x200) -> ConnectionOptions {
        var options = ConnectionOptions()
        options.sendPSN = sendPSN
        options.receivePSN = receivePSN
        return options
    }

    @Test("The requester gives a READ as many PSNs as responses, and at least one to everything")
    func requesterCounts() {
        let peer = ScriptedPeer()
        peer.post(.rdmaRead, length: 3_000)
        peer.post(.rdmaRead, length: 0)
        peer.post(.fetchAndAdd)
        peer.post(.send, length: 0)
        peer.post(.rdmaWrite, length: 0)
        peer.post(.rdmaWrite, length: 1_025)
        peer.post(.send)
        #expect(peer.takeSent().map(\.psn) == [0x100, 0x103, 0x104, 0x105, 0x106, 0x107, 0x108, 0x109])
    }

    @Test("The responder expects the PSN behind all the responses of a READ")
    func responderCounts() {
        let peer = ScriptedPeer()
        peer.postReceive()
        peer.request(.rcReadRequest, 0x200, length: 3_000)
        peer.request(.rcReadRequest, 0x203, length: 0)
        peer.atomic(0x204, add: 1, at: 0)
        peer.request(.rcSendOnly, 0x205)
        let answers = peer.takeSent()
        #expect(answers.map(\.psn) == [0x200, 0x201, 0x202, 0x203, 0x204, 0x205])
        #expect(answers.last?.aeth.syndrome == .acknowledged)
    }

    @Test("PSNs go on at 0 after 2^24 - 1, in requests, responses and repetitions")
    func wrap() {
        let peer = ScriptedPeer(options: options(sendPSN: 0xFF_FFFE, receivePSN: 0xFF_FFFF))
        peer.post(.rdmaWrite, id: 1, length: 4_000)
        #expect(peer.takeSent().map(\.psn) == [0xFF_FFFE, 0xFF_FFFF, 0, 1])
        peer.acknowledge(0, 0x60)
        #expect(peer.takeSent().map(\.psn) == [0, 1])
        peer.acknowledge(1)
        #expect(peer.pollSends().map(\.status) == [.success])

        peer.request(.rcReadRequest, 0xFF_FFFF, length: 3_000)
        #expect(peer.takeSent().map(\.psn) == [0xFF_FFFF, 0, 1])
        peer.request(.rcReadRequest, 0, length: 3_000 - 1024, at: 1024)
        #expect(peer.takeSent().map(\.psn) == [0, 1])
        peer.request(.rcWriteOnly, 2, [1])
        peer.request(.rcWriteOnly, 2, [1])
        #expect(peer.takeSent().map(\.psn) == [2, 2])
        #expect(peer.counters.duplicateRequests == 2)
    }

    @Test("Half of the numbers are past, and the other half is future")
    func halves() {
        let peer = ScriptedPeer()
        peer.request(.rcWriteOnly, 0x200 + 0x80_0000, [1])
        #expect(peer.takeSent().map(\.aeth.syndrome) == [.acknowledged], "2^23 away is the oldest past")
        peer.request(.rcWriteOnly, 0x200 + 0x7F_FFFF, [1])
        let answer = peer.takeSent().first
        #expect(answer?.aeth.syndrome == .refused(.sequenceError))
        #expect(answer?.psn == 0x200)
        #expect(peer.memory[0] == 0)
    }

    @Test("The MSN counts messages at their end, and a READ or atomic when it is asked for")
    func messages() {
        let peer = ScriptedPeer()
        peer.request(.rcWriteOnly, 0x200, [1])
        peer.request(.rcWriteFirst, 0x201, full, length: 1_025)
        peer.request(.rcWriteLast, 0x202, [1])
        peer.request(.rcReadRequest, 0x203, length: 2_000, drains: false)
        peer.atomic(0x205, add: 1, at: 0)
        peer.request(.rcSendMiddle, 0x206, full)
        let answers = peer.takeSent().filter { $0.descriptor.headers.contains(.aeth) }
        #expect(answers.map(\.psn) == [0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206])
        #expect(answers.map { Int($0.aeth.msn.rawValue) } == [1, 1, 2, 3, 3, 4, 4])
        #expect(answers.last?.aeth.syndrome == .refused(.invalidRequest))
    }
}
