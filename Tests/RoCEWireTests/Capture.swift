// SPDX-License-Identifier: Apache-2.0
import Foundation

/// The frames of one pcap file in `Tests/Fixtures/Captures`.
struct Capture: CustomStringConvertible, Sendable {
    let name: String
    let frames: [[UInt8]]

    var description: String { name }

    struct Malformed: Error {
        let path: String
        let reason: String
    }

    /// Every capture, those of both kernels, in order of name.
    static let all: [Capture] = {
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Fixtures/Captures")
        let names = ["", "k612/"].flatMap { folder in
            let files = (try? FileManager.default.contentsOfDirectory(atPath: root.path + "/" + folder)) ?? []
            return files.filter { $0.hasSuffix(".pcap") }.sorted().map { folder + $0 }
        }
        do {
            return try names.map { try Capture(path: root.path + "/" + $0, name: $0) }
        } catch {
            fatalError("\(error)")
        }
    }()

    /// Reads the classic format: little-endian, microseconds, Ethernet, frames whole.
    init(path: String, name: String) throws {
        let bytes = try [UInt8](Data(contentsOf: URL(filePath: path)))
        func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << ($1 * 8) } }
        guard bytes.count >= 24, word(0) == 0xA1B2_C3D4, word(20) == 1 else {
            throw Malformed(path: path, reason: "not a little-endian Ethernet capture")
        }
        var frames: [[UInt8]] = []
        var offset = 24
        while offset < bytes.count {
            guard offset + 16 <= bytes.count else { throw Malformed(path: path, reason: "record cut at \(offset)") }
            let length = word(offset + 8)
            guard length == word(offset + 12), offset + 16 + length <= bytes.count else {
                throw Malformed(path: path, reason: "frame cut at \(offset)")
            }
            frames.append(Array(bytes[offset + 16..<offset + 16 + length]))
            offset += 16 + length
        }
        self.name = name
        self.frames = frames
    }
}

extension [UInt8] {
    /// Bytes from hexadecimal digits; blanks do not count.
    init(hex: String) {
        let digits = hex.utf8.filter { $0 != UInt8(ascii: " ") }.map {
            UInt8(Character(UnicodeScalar($0)).hexDigitValue!)
        }
        precondition(digits.count % 2 == 0)
        self = stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}
