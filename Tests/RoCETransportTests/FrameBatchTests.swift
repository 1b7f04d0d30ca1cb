// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import RoCETransport

@Suite("Heads of frames that are sent") struct FrameBatchTests {
    /// A batch with one frame behind another, in pieces of these lengths.
    private static func batch(_ memory: UnsafeMutableRawBufferPointer, _ pieces: [Int], room: Int) -> FrameBatch {
        var batch = FrameBatch(pieceCountMax: room)
        batch.count = 2
        batch.counts[0] = 0
        batch.counts[1] = pieces.count
        var offset = 0
        for (index, count) in pieces.enumerated() {
            batch.pieces[room + index] = FramePiece(base: memory.baseAddress! + offset, byteCount: count)
            offset += count
        }
        return batch
    }

    @Test(
        "A detached head is sent in place of the bytes that it was copied from, however they lie in pieces",
        arguments: [[100], [1, 99], [50, 50], [10, 20, 30, 40], [1, 1, 1, 1, 96], [40, 0, 60], []] as [[Int]])
    func detaches(pieces: [Int]) {
        let byteCount = pieces.reduce(0, +)
        for limit in 1...101 {
            let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 128, alignment: 1)
            let head = UnsafeMutableRawBufferPointer.allocate(byteCount: 128, alignment: 1)
            defer {
                memory.deallocate()
                head.deallocate()
            }
            for index in 0..<128 {
                memory[index] = UInt8(index)
                head[index] = 0xEE
            }
            var batch = Self.batch(memory, pieces, room: pieces.count + 1)
            let copied = batch.detachHead(of: 1, into: head.baseAddress!, limit: limit)
            #expect(copied == min(limit, byteCount))
            #expect(batch.byteCount(of: 1) == byteCount)
            // What the application does to the head from now on is not sent; what it does to the rest is.
            for index in 0..<128 { memory[index] ^= 0xFF }
            var sent: [UInt8] = []
            for index in 0..<batch.counts[1] {
                let piece = batch.pieces[batch.pieceCountMax + index]
                sent += UnsafeRawBufferPointer(start: piece.base, count: piece.byteCount)
            }
            #expect(sent == (0..<byteCount).map { UInt8($0) ^ ($0 < copied ? 0 : 0xFF) }, "limit \(limit)")
            #expect(head[copied] == 0xEE)
        }
    }

    @Test("What is cut off is not of the batch")
    func cuts() {
        var batch = FrameBatch(pieceCountMax: 2)
        batch.count = 5
        batch.cut(before: 3)
        #expect(batch.count == 3)
    }
}
