// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import TestNetwork

@testable import PacketIO

/// Frames of the EtherType for experiments, which nobody else sends, and the program that takes them and nothing else.
enum ExperimentalFrames {
    static func frame(_ number: Int, byteCount: Int) -> [UInt8] {
        var bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ number) }
        bytes.replaceSubrange(0..<14, with: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xB5])
        for index in 0..<4 where byteCount >= 18 {
            bytes[14 + index] = UInt8(truncatingIfNeeded: number >> (index * 8))
        }
        return bytes
    }

    static func program(to sockets: borrowing BPFMap, takesFragments: Bool = false) throws -> BPFProgram {
        var code = BPFAssembler()
        let pass = code.makeLabel()
        code.compute(.r6, .move, .r1)
        code.load(.r7, .word, at: .r6, 0)
        code.load(.r8, .word, at: .r6, 4)
        code.compute(.r2, .move, .r7)
        code.compute(.r2, .add, 14)
        code.jump(if: .r2, .greater, .r8, to: pass)
        code.load(.r2, .half, at: .r7, 12)
        code.jump(if: .r2, .notEqual, 0xB588, to: pass)
        code.load(.r2, .word, at: .r6, 16)
        code.load(.r1, map: sockets)
        code.compute(.r3, .move, BPFProgram.Verdict.drop.rawValue)
        code.call(.redirectMap)
        code.exit()
        code.place(pass)
        code.compute(.r0, .move, BPFProgram.Verdict.pass.rawValue)
        code.exit()
        return try BPFProgram(xdp: code.assemble(), takesFragments: takesFragments)
    }

    /// Sends frames from an interface until all are out.
    static func send(_ frames: [[UInt8]], by sender: inout XDPFrames) throws {
        let deadline = Waiter.now + 20_000_000_000
        for frame in frames {
            while !frame.withUnsafeBytes({ sender.add($0) }) {
                sender.flush()
                guard Waiter.now < deadline else { throw NetworkTimeout.sending }
            }
        }
        sender.flush()
        while sender.isUnsent {
            sender.flush()
            guard Waiter.now < deadline else { throw NetworkTimeout.sending }
        }
    }
}

enum NetworkTimeout: Error { case sending }

/// An interface's frames at AF_XDP sockets: for as long as this lives.
struct ReceivingFrames: ~Copyable {
    var frames: XDPFrames
    private let sockets: BPFMap
    private let attachment: XDPAttachment

    init(_ name: String, mode: XDPAttachment.Mode, _ options: XDPFrames.Options = XDPFrames.Options()) throws {
        let interface = try NetworkInterface.named(name)!
        let frames = try XDPFrames(interface, options)
        let sockets = try BPFMap(.sockets, keyBytes: 4, valueBytes: 4, entryCount: 16)
        for queue in 0..<frames.queueCount {
            try sockets.set(UInt32(queue), to: UInt32(frames.descriptor(queue)))
        }
        let attachment = try XDPAttachment(
            ExperimentalFrames.program(to: sockets, takesFragments: frames.takesFragments), interface: interface.index,
            mode: mode)
        self.frames = frames
        self.sockets = sockets
        self.attachment = attachment
    }

    /// What has come, and comes until there are `count` frames, or for some seconds.
    mutating func take(_ count: Int, seconds: UInt64 = 10) -> [[UInt8]] {
        var seen: [[UInt8]] = []
        let deadline = Waiter.now + seconds * 1_000_000_000
        while seen.count < count, Waiter.now < deadline {
            frames.beginBatch()
            while let frame = frames.nextFrame() { seen.append(Array(frame)) }
        }
        return seen
    }
}
