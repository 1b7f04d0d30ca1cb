// SPDX-License-Identifier: Apache-2.0
import RoCEWire

extension FuzzTarget {
    /// Requester, responder and memory keys: a sequence of packets, work requests, time and control calls.
    static let engine = FuzzTarget(name: "engine", seeds: engineSeeds) { bytes in
        var input = FuzzInput(bytes)
        let world = FuzzWorld(&input)
        for _ in 0..<FuzzWorld.stepCountMax where !input.isAtEnd { world.step(&input) }
        world.finish()
    }

    /// Each packet of the kernel to a queue pair of its type, and a few conversations.
    @Sendable private static func engineSeeds(_ frames: [[UInt8]]) -> [[UInt8]] {
        let opening = [UInt8](repeating: 0, count: 7)
        let packets: [[UInt8]] = frames.compactMap { frame in
            guard case .frame(let parsed) = RoCEFrame.parse(ethernet: frame.span.bytes), parsed.udpPayload.count < 256,
                case .packet(let packet) = RoCEPacket.parse(frame.span.bytes.extracting(parsed.udpPayload))
            else { return nil }
            let index: UInt8 =
                switch packet.descriptor.transport {
                case .uc: 2
                case .ud: 5
                default: 4
                }
            let payload = Array(frame[parsed.udpPayload])
            let receive: [UInt8] = [index << 4 | FuzzStep.postReceive.rawValue, 1, 0, 0, 0, 0, 4, 0, 0]
            // Patches both numbers; the PSN that is expected.
            return opening + receive
                + [index << 4 | FuzzStep.injectRaw.rawValue, UInt8(payload.count / 4)] + payload
                + [0, 0x20, 0, 0, 0, FuzzStep.drain.rawValue]
        }
        return packets + conversations.map { opening + $0 }
    }

    /// Each operation from one RC queue pair to the other, delivered and acknowledged, and the same over XRC.
    private static let conversations = (0..<10).flatMap { operation in
        [conversation(UInt8(operation), from: 0, to: 1), conversation(UInt8(operation), from: 6, to: 7)]
    }

    private static func conversation(_ operation: UInt8, from sender: UInt8, to receiver: UInt8) -> [UInt8] {
        let receive: [UInt8] = [receiver << 4 | FuzzStep.postReceive.rawValue, 1, 0, 0, 0, 0x04, 0x00, 0]
        let send: [UInt8] =
            [sender << 4 | FuzzStep.postSend.rawValue, 0, operation, 2, 5, 0, 1, 0]
            + [1, 7, 0, 8, 0, 0] + [1, 0, 0, 0, 0x00, 0x08, 0, 0]
        let exchange = [FuzzStep.drain, .deliverAll, .drain, .deliverAll, .drain, .poll].map(\.rawValue)
        return receive + send + exchange + send + exchange
    }
}
