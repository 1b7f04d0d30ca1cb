// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// A piece of a frame that is to be sent: memory of the application, or inline data of a send queue. The layout is that of
/// `struct iovec`.
@frozen @safe public struct FramePiece: BitwiseCopyable {
    /// The first byte.
    public var base: UnsafeMutableRawPointer?
    /// The number of bytes.
    public var byteCount: Int
}

/// Frames of one raw packet queue pair on their way to a link, in pieces. Allocated once.
@safe public struct FrameBatch: ~Copyable {
    /// Frames of one batch at the most.
    public static var frameCountMax: Int { 64 }
    /// Pieces of one frame at the most.
    public let pieceCountMax: Int

    /// Frame `i` has the `counts[i]` pieces from `i * pieceCountMax` on. Valid until the sends are completed.
    public let pieces: UnsafeMutablePointer<FramePiece>
    /// The number of pieces of each frame.
    public let counts: UnsafeMutablePointer<Int>
    /// The number of frames.
    public internal(set) var count = 0
    /// Whose frames they are.
    public internal(set) var qpn = QPN(truncating: 0)

    /// An empty batch.
    public init(pieceCountMax: Int) {
        self.pieceCountMax = pieceCountMax
        let pieceCount = Self.frameCountMax * pieceCountMax
        unsafe pieces = .allocate(capacity: pieceCount)
        unsafe pieces.initialize(repeating: FramePiece(base: nil, byteCount: 0), count: pieceCount)
        unsafe counts = .allocate(capacity: Self.frameCountMax)
        unsafe counts.initialize(repeating: 0, count: Self.frameCountMax)
    }

    deinit {
        unsafe pieces.deallocate()
        unsafe counts.deallocate()
    }

    /// The number of bytes of a frame.
    public func byteCount(of frame: Int) -> Int {
        precondition(frame >= 0 && frame < count, "there is such a frame")
        var sum = 0
        let pieceCount = unsafe counts[frame]
        for piece in 0..<pieceCount { unsafe sum += pieces[frame * pieceCountMax + piece].byteCount }
        return sum
    }

    /// Copies the first bytes of a frame, and has the copy be sent in their place: what the application writes to its memory from now on
    /// changes none of them. The frame has one piece more than before, which ``pieceCountMax`` must leave room for.
    ///
    /// - Parameters:
    ///   - memory: where to copy to; it must stay until the frame is completed.
    ///   - limit: the room there.
    /// - Returns: the number of bytes copied: `limit`, or the whole frame.
    @discardableResult
    public mutating func detachHead(of frame: Int, into memory: UnsafeMutableRawPointer, limit: Int) -> Int {
        precondition(frame >= 0 && frame < count, "there is such a frame")
        let first = unsafe pieces + frame * pieceCountMax
        let pieceCount = unsafe counts[frame]
        var copied = 0
        var index = 0
        while index < pieceCount, copied < limit {
            let taken = unsafe min(first[index].byteCount, limit - copied)
            // A piece without memory has no bytes.
            guard let base = unsafe first[index].base else {
                index += 1
                continue
            }
            unsafe (memory + copied).copyMemory(from: base, byteCount: taken)
            copied += taken
            unsafe first[index].byteCount -= taken
            unsafe first[index].base = unsafe base + taken
            if unsafe first[index].byteCount > 0 { break }
            index += 1
        }
        let rest = pieceCount - index
        precondition(rest < pieceCountMax, "there is room for one piece more")
        // The areas overlap, which `update` allows for.
        unsafe (first + 1).update(from: first + index, count: rest)
        unsafe first[0] = FramePiece(base: memory, byteCount: copied)
        unsafe counts[frame] = rest + 1
        return copied
    }

    /// Leaves the frames from one on for the next batch.
    public mutating func cut(before frame: Int) {
        precondition(frame > 0 && frame <= count, "one frame is left at least")
        count = frame
    }
}

/// What became of a frame that was given to a raw packet queue pair.
public enum FrameDelivery: Sendable, Equatable {
    /// It lies in a receive, which is complete.
    case delivered
    /// The receive was too short: it is complete with a length error, and holds nothing.
    case tooLong
    /// No receive was posted: the frame is lost, and counted.
    case noReceive
    /// The queue pair takes no frames, or has gone: the frame is lost, and counted.
    case notReady
    /// The receive names memory that is not its owner's: the queue pair is in ERR.
    case inaccessible
}
