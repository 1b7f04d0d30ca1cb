// SPDX-License-Identifier: Apache-2.0
import Foundation

/// A capture of whole Ethernet frames, as all in `Tests/Fixtures/Captures` are.
enum CaptureFile {
    static func frames(of file: URL) throws -> [[UInt8]] {
        let bytes = try [UInt8](Data(contentsOf: file))
        func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << ($1 * 8) } }
        precondition(
            word(0) == 0xA1B2_C3D4 && word(20) == 1, "\(file.path): a little-endian Ethernet capture is expected")
        var frames: [[UInt8]] = []
        var offset = 24
        while offset + 16 <= bytes.count {
            let end = offset + 16 + word(offset + 8)
            frames.append(Array(bytes[offset + 16..<end]))
            offset = end
        }
        return frames
    }
}
