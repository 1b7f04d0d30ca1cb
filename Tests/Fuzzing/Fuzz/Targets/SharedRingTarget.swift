// SPDX-License-Identifier: Apache-2.0
import PacketIO

extension FuzzTarget {
    /// A peer of the same host that writes what it likes into the ring that it shares with us, at both ends of it.
    static let sharedRing = FuzzTarget(name: "shared-ring", seeds: { _ in [[0, 16, 1, 0, 2, 3], [1, 255, 0, 0, 2]] }) {
        bytes in
        var input = FuzzInput(bytes)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: SharedRing.byteCount, alignment: 64)
        let target = UnsafeMutableRawPointer.allocate(byteCount: SharedRing.payloadBytesMax, alignment: 64)
        defer {
            memory.deallocate()
            target.deallocate()
        }
        memory.initializeMemory(as: UInt8.self, repeating: 0, count: SharedRing.byteCount)
        var writer = SharedRingWriter(memory)
        var reader = SharedRingReader(memory)
        for _ in 0..<256 where !input.isAtEnd {
            switch input.below(6) {
            case 0:
                // Positions and flags: near what they are, or anywhere.
                let offset = input.below(2) * 64
                let old = memory.load(fromByteOffset: offset, as: UInt64.self)
                let value = input.oneIn(3) ? input.integer(UInt64.self) : old &+ UInt64(input.below(1 << 16)) &* 16
                memory.storeBytes(of: value, toByteOffset: offset, as: UInt64.self)
            case 1:
                // A header somewhere, or near the end of the area.
                let place = input.oneIn(3) ? SharedRing.capacity / 16 - 1 - input.below(256) : input.below(1 << 15)
                memory.storeBytes(
                    of: input.oneIn(4) ? .max : UInt64(input.integer(UInt16.self)) | UInt64(input.byte()) << 32,
                    toByteOffset: SharedRing.controlBytes + place * 16, as: UInt64.self)
            case 2:
                let count = 1 + input.integer(UInt16.self) % 65_535
                let record = SharedRing.Record(byteCount: Int(count), segmentSize: Int(count))
                _ = writer.write(record, target)
            case 3: _ = writer.isDrained()
            default:
                if case .record(let record) = reader.read(into: target) {
                    require(record.byteCount <= SharedRing.payloadBytesMax, "too long")
                    require(record.segmentSize > 0 && record.segmentSize <= record.byteCount, "segments")
                }
            }
        }
    }
}
