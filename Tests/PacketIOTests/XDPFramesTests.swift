// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import TestNetwork
import Testing

@testable import PacketIO

@Suite(
    "Whole frames by AF_XDP", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and iproute2"))
struct XDPFramesTests {
    static let modes: [XDPAttachment.Mode] = [.native, .generic]

    @Test("arrive as they were sent, in order, though the rings go round", arguments: modes)
    func carries(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            var options = XDPFrames.Options()
            options.receiveCount = 4096
            var receiver = try ReceivingFrames("va", mode: mode, options)
            var sender = try pair.inSecond { try XDPFrames(NetworkInterface.named("vb")!) }
            var sent: [[UInt8]] = []
            var received: [[UInt8]] = []
            for round in 0..<40 {
                // Up to the MTU and a VLAN tag, which is what veth lets through.
                let frames = (0..<200).map {
                    ExperimentalFrames.frame(round * 200 + $0, byteCount: 14 + ($0 * 7919 + round) % 1505)
                }
                try ExperimentalFrames.send(frames, by: &sender)
                sent += frames
                received += receiver.take(frames.count)
                if received.count < sent.count { break }
            }
            let deadline = Waiter.now + 10_000_000_000
            while sender.completedCount < sent.count, Waiter.now < deadline { sender.reap() }
            return (
                sent: sent, received: received, completed: sender.completedCount, dropped: receiver.frames.newlyDropped,
                mark: receiver.frames.mark
            )
        }
        #expect(seen.received == seen.sent)
        #expect(seen.completed == UInt64(seen.sent.count))
        #expect(seen.dropped == 0)
        #expect(seen.mark == nil)
    }

    @Test("of a large MTU lie in several chunks, on the way out and in", arguments: modes)
    func fragments(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            try pair.command("ip link set va mtu 9000")
            try pair.inSecond { _ = try pair.command("ip link set vb mtu 9000") }
            var receiver = try ReceivingFrames("va", mode: mode)
            var sender = try pair.inSecond { try XDPFrames(NetworkInterface.named("vb")!) }
            let frames = [60, 3840, 3841, 4096, 4097, 8192, 8193, 9014].enumerated().map {
                ExperimentalFrames.frame($0.offset, byteCount: $0.element)
            }
            var received: [[UInt8]] = []
            for _ in 0..<200 {
                try ExperimentalFrames.send(frames, by: &sender)
                let taken = receiver.take(frames.count)
                received += taken
                if taken.count < frames.count { break }
            }
            let deadline = Waiter.now + 10_000_000_000
            while sender.completedCount < 200 * frames.count, Waiter.now < deadline { sender.reap() }
            return (
                sent: Array(repeatElement(frames, count: 200).joined()), received: received,
                completed: sender.completedCount
            )
        }
        #expect(seen.received == seen.sent)
        #expect(seen.completed == UInt64(seen.sent.count))
    }

    @Test("come by every queue of the interface", arguments: modes)
    func queues(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            try pair.command(
                "ip link add name wide0 numrxqueues 2 numtxqueues 2 type veth peer name wide1 numrxqueues 2 numtxqueues 2"
            )
            for name in ["wide0", "wide1"] { try pair.command("ip link set \(name) up") }
            var receiver = try ReceivingFrames("wide0", mode: mode)
            // What a socket sends on a queue arrives on the queue of that number.
            var received: [[UInt8]] = []
            for queue in 0..<2 {
                var socket = try XDPQueue(
                    interface: NetworkInterface.named("wide1")!.index, queue: queue, chunkByteCount: 2048,
                    receiveCount: 64,
                    transmitCount: 64, takesFragments: false)
                let frame = ExperimentalFrames.frame(queue, byteCount: 100)
                frame.withUnsafeBytes { socket.memory.base.copyMemory(from: $0.baseAddress!, byteCount: 100) }
                socket.socket.transmit.push(xdp_desc(addr: 0, len: 100, options: 0))
                socket.socket.transmit.submit()
                _ = socket.socket.kickTransmit()
                received += receiver.take(1)
            }
            return (received: received, count: receiver.frames.queueCount)
        }
        #expect(seen.count == 2)
        #expect(seen.received == (0..<2).map { ExperimentalFrames.frame($0, byteCount: 100) })
    }

    @Test("wake who waits for the descriptor")
    func descriptor() throws {
        let seen = try VethPair.run { pair in
            var receiver = try ReceivingFrames("va", mode: .native)
            var sender = try pair.inSecond { try XDPFrames(NetworkInterface.named("vb")!) }
            var poller = pollfd(fd: receiver.frames.descriptor(0), events: Int16(POLLIN), revents: 0)
            let before = poll(&poller, 1, 0)
            try ExperimentalFrames.send([ExperimentalFrames.frame(0, byteCount: 60)], by: &sender)
            let woken = poll(&poller, 1, 10_000)
            let isReady = receiver.frames.isReady
            _ = receiver.take(1)
            return (before: before, woken: woken, isReady: isReady, after: poll(&poller, 1, 0))
        }
        #expect(seen.before == 0 && seen.woken == 1 && seen.isReady && seen.after == 0)
    }

    @Test("that find no room are counted as dropped, and those before them are there")
    func drops() throws {
        let seen = try VethPair.run { pair in
            var options = XDPFrames.Options()
            options.receiveCount = 4096
            var receiver = try ReceivingFrames("va", mode: .native, options)
            var sender = try pair.inSecond { try XDPFrames(NetworkInterface.named("vb")!) }
            let frames = (0..<5000).map { ExperimentalFrames.frame($0, byteCount: 60) }
            try ExperimentalFrames.send(frames, by: &sender)
            let received = receiver.take(4096)
            let dropped = receiver.frames.newlyDropped
            return (received: received, sent: frames, dropped: dropped, again: receiver.frames.newlyDropped)
        }
        #expect(seen.received == Array(seen.sent[..<4096]))
        #expect(seen.dropped == 5000 - 4096)
        #expect(seen.again == 0)
    }
}
