// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import TestNetwork
import Testing

@testable import PacketIO

/// A direct queue on `va` over memory full of one byte, and a sender on `vb`.
private struct DirectPair: ~Copyable {
    static let memoryBytes = 1 << 20
    static let guardByte: UInt8 = 0xA7

    var queue: XDPDirectQueue
    var sender: XDPFrames
    let memory: XDPMemory
    private let sockets: BPFMap
    private let attachment: XDPAttachment

    init(_ pair: VethPair, mode: XDPAttachment.Mode, frameByteCount: Int, depth: Int = 64) throws {
        let interface = try NetworkInterface.named("va")!
        let memory = try XDPMemory(byteCount: Self.memoryBytes)
        memset(memory.base, Int32(Self.guardByte), memory.byteCount)
        let queue = try XDPDirectQueue(
            interface: interface.index, queue: 0,
            memory: UnsafeMutableRawBufferPointer(start: memory.base, count: memory.byteCount),
            frameByteCount: frameByteCount, depth: depth)
        let sockets = try BPFMap(.sockets, keyBytes: 4, valueBytes: 4, entryCount: 1)
        try sockets.set(UInt32(0), to: UInt32(queue.descriptor))
        let attachment = try XDPAttachment(
            ExperimentalFrames.program(to: sockets), interface: interface.index, mode: mode)
        sender = try pair.inSecond { try XDPFrames(NetworkInterface.named("vb")!) }
        self.memory = memory
        self.queue = queue
        self.sockets = sockets
        self.attachment = attachment
    }

    mutating func send(_ frames: [[UInt8]]) throws { try ExperimentalFrames.send(frames, by: &sender) }

    /// The next frame, within some seconds: its identifier, where it lies and how long it is.
    mutating func arrival() -> (id: UInt64, offset: Int, byteCount: Int)? {
        let deadline = Waiter.now + 10_000_000_000
        while Waiter.now < deadline {
            if let arrival = queue.poll() { return (arrival.id, arrival.address - memory.base, arrival.byteCount) }
        }
        return nil
    }

    func bytes(_ offset: Int, _ count: Int) -> [UInt8] {
        Array(UnsafeRawBufferPointer(start: memory.base + offset, count: count))
    }

    /// Whether every byte is as it was, but for these ranges.
    func isUntouched(but written: [Range<Int>]) -> Bool {
        var isWritten = [Bool](repeating: false, count: memory.byteCount)
        for range in written { for index in range { isWritten[index] = true } }
        let bytes = bytes(0, memory.byteCount)
        return bytes.indices.allSatisfy { isWritten[$0] || bytes[$0] == Self.guardByte }
    }
}

@Suite(
    "A receive queue in the application's memory", .serialized, .timeLimit(.minutes(10)),
    .enabled(if: Privilege.networkNamespaces, "needs CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF and iproute2"))
struct XDPDirectQueueTests {
    static let modes: [XDPAttachment.Mode] = [.native, .generic]

    @Test(
        "has each frame at exactly the posted address, and touches no other byte", arguments: modes,
        [512, 701, 1514, 1792, 1793, 3000, 3840])
    func exact(mode: XDPAttachment.Mode, frameByteCount: Int) throws {
        let seen = try VethPair.run { pair in
            var direct = try DirectPair(pair, mode: mode, frameByteCount: frameByteCount)
            // Odd addresses, across pages, buffers end to end; not in the order of their addresses.
            let first = direct.queue.leadByteCount + 1
            let offsets = (0..<32).map { first + ($0 * 5 % 32) * frameByteCount }
            let isPosted = offsets.enumerated().map { index, offset in
                direct.queue.post(direct.memory.base + offset, byteCount: frameByteCount, id: UInt64(1000 + index))
            }
            direct.queue.submit()
            let frames = (0..<32).map { index in
                ExperimentalFrames.frame(
                    index, byteCount: min(1514, index == 0 ? frameByteCount : 60 + index * 97 % (frameByteCount - 59)))
            }
            try direct.send(frames)
            var places: [Int] = []
            var wrong: [Int] = []
            for frame in frames {
                guard let arrival = direct.arrival() else { break }
                let index = Int(arrival.id) - 1000
                if arrival.offset != offsets[index] || direct.bytes(arrival.offset, arrival.byteCount) != frame {
                    wrong.append(index)
                }
                places.append(index)
            }
            let written = zip(places, frames).map { offsets[$0]..<offsets[$0] + $1.count }
            return (
                isPosted: isPosted, places: places, wrong: wrong, isUntouched: direct.isUntouched(but: written),
                left: direct.queue.postedCount, tooLong: direct.queue.tooLongCount
            )
        }
        #expect(seen.isPosted.allSatisfy { $0 })
        #expect(Set(seen.places) == Set(0..<32) && seen.places.count == 32)
        #expect(seen.wrong.isEmpty)
        #expect(seen.isUntouched)
        #expect(seen.left == 0 && seen.tooLong == 0)
    }

    @Test("drops and counts a frame that is longer than the shortest buffer, and has the next one", arguments: modes)
    func tooLong(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            var direct = try DirectPair(pair, mode: mode, frameByteCount: 600)
            let offset = 5001
            // The buffer is longer; what counts is what was promised of all.
            _ = direct.queue.post(direct.memory.base + offset, byteCount: 800, id: 1)
            direct.queue.submit()
            let frames = [601, 1514, 700, 600].map { ExperimentalFrames.frame($0, byteCount: $0) }
            try direct.send(frames)
            let arrival = direct.arrival()
            return (
                arrival: arrival.map { [Int($0.id), $0.offset, $0.byteCount] },
                isFrame: direct.bytes(offset, 600) == frames[3],
                isUntouched: direct.isUntouched(but: [offset..<offset + 600]), tooLong: direct.queue.tooLongCount,
                unbuffered: direct.queue.unbufferedCount
            )
        }
        #expect(seen.arrival == [1, 5001, 600])
        #expect(seen.isFrame && seen.isUntouched)
        #expect(seen.tooLong == 3 && seen.unbuffered == 0)
    }

    @Test("counts frames for which nothing is posted, and goes on when something is", arguments: modes)
    func unbuffered(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            var direct = try DirectPair(pair, mode: mode, frameByteCount: 1514)
            try direct.send((0..<3).map { ExperimentalFrames.frame($0, byteCount: 100) })
            let deadline = Waiter.now + 10_000_000_000
            while direct.queue.unbufferedCount < 3, Waiter.now < deadline {}
            let lost = direct.queue.unbufferedCount
            let isUntouched = direct.isUntouched(but: [])
            _ = direct.queue.post(direct.memory.base + 8191, byteCount: 1514, id: 7)
            direct.queue.submit()
            try direct.send([ExperimentalFrames.frame(9, byteCount: 100)])
            let arrival = direct.arrival()
            return (
                lost: lost, tooLong: direct.queue.tooLongCount, isUntouched: isUntouched, id: arrival?.id,
                isFrame: direct.bytes(8191, 100) == ExperimentalFrames.frame(9, byteCount: 100)
            )
        }
        #expect(seen.lost == 3 && seen.tooLong == 0 && seen.isUntouched)
        #expect(seen.id == 7 && seen.isFrame)
    }

    @Test("refuses buffers that the kernel would swallow, and takes the ones just beside them", arguments: modes)
    func borders(mode: XDPAttachment.Mode) throws {
        let seen = try VethPair.run { pair in
            var direct = try DirectPair(pair, mode: mode, frameByteCount: 700, depth: 4)
            let lead = direct.queue.leadByteCount
            let end = DirectPair.memoryBytes
            let base = direct.memory.base
            func post(_ offset: Int, _ byteCount: Int, _ queue: inout XDPDirectQueue) -> Bool {
                queue.post(base + offset, byteCount: byteCount, id: UInt64(bitPattern: Int64(offset)))
            }
            let refused = [
                post(lead - 1, 700, &direct.queue), post(0, 700, &direct.queue), post(-8192, 700, &direct.queue),
                post(end - 699, 700, &direct.queue), post(end, 700, &direct.queue),
                post(end + 4096, 700, &direct.queue), post(9000, 699, &direct.queue),
            ]
            let taken = [post(lead, 700, &direct.queue), post(end - 700, 700, &direct.queue)]
            direct.queue.submit()
            let frames = (0..<2).map { ExperimentalFrames.frame($0, byteCount: 700) }
            try direct.send(frames)
            let arrivals = [direct.arrival()?.offset, direct.arrival()?.offset]
            let isRight = direct.bytes(lead, 700) == frames[0] && direct.bytes(end - 700, 700) == frames[1]
            // As many as the queue holds, until one comes back.
            var filled: [Bool] = []
            for index in 0..<5 { filled.append(post(20_000 + index * 700, 700, &direct.queue)) }
            direct.queue.submit()
            try direct.send([frames[0]])
            _ = direct.arrival()
            return (
                refused: refused, taken: taken, arrivals: arrivals, expected: [lead, end - 700], isRight: isRight,
                filled: filled, again: post(50_000, 700, &direct.queue)
            )
        }
        #expect(seen.refused.allSatisfy { !$0 })
        #expect(seen.taken == [true, true])
        #expect(seen.arrivals == seen.expected)
        #expect(seen.isRight)
        #expect(seen.filled == [true, true, true, true, false])
        #expect(seen.again)
    }

    @Test("is used again and again, with frames and rings going round")
    func rounds() throws {
        let seen = try VethPair.run { pair in
            var direct = try DirectPair(pair, mode: .native, frameByteCount: 1514, depth: 16)
            var wrong = 0
            var ids: [UInt64] = []
            for round in 0..<200 {
                let offsets = (0..<16).map { 4097 + (($0 + round) % 16) * 2000 }
                for (index, offset) in offsets.enumerated() {
                    _ = direct.queue.post(direct.memory.base + offset, byteCount: 1514, id: UInt64(round * 16 + index))
                }
                direct.queue.submit()
                let frames = (0..<16).map { ExperimentalFrames.frame(round * 16 + $0, byteCount: 60 + round) }
                try direct.send(frames)
                for frame in frames {
                    guard let arrival = direct.arrival() else { break }
                    ids.append(arrival.id)
                    if direct.bytes(arrival.offset, arrival.byteCount) != frame { wrong += 1 }
                }
            }
            return (wrong: wrong, ids: ids)
        }
        #expect(seen.wrong == 0)
        #expect(seen.ids.sorted() == (0..<3200).map { UInt64($0) })
    }

    @Test("says what is wrong with its arguments")
    func arguments() throws {
        let errors = try VethPair.run { pair in
            let memory = try XDPMemory(byteCount: 1 << 16)
            let index = try NetworkInterface.named("va")!.index
            func error(_ offset: Int, frames: Int, depth: Int) -> String {
                do {
                    _ = try XDPDirectQueue(
                        interface: index, queue: 0,
                        memory: UnsafeMutableRawBufferPointer(
                            start: memory.base + offset, count: memory.byteCount - offset),
                        frameByteCount: frames, depth: depth)
                    return ""
                } catch { return "\(error)" }
            }
            return [
                error(0, frames: 511, depth: 4), error(0, frames: 3841, depth: 4), error(1, frames: 1514, depth: 4),
                error(0, frames: 1514, depth: 5), error(0, frames: 1514, depth: 4),
            ]
        }
        for (text, part) in zip(errors, ["not 511", "not 3841", "begins at a page", "not 5"]) {
            #expect(text.contains(part))
        }
        #expect(errors.last == "")
    }
}
