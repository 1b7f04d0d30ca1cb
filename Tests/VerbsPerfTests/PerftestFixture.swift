// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import VerbsPerf

/// A recorded session of the stock programs; see `Tests/Fixtures/Perftest/README.md`.
struct PerftestFixture {
    let client: [[UInt8]]
    let server: [[UInt8]]

    static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Fixtures/Perftest")

    init(_ name: String) throws {
        let text = try String(contentsOf: Self.folder.appendingPathComponent(name + ".session"), encoding: .utf8)
        var client: [[UInt8]] = []
        var server: [[UInt8]] = []
        for line in text.split(separator: "\n") {
            let bytes = Self.bytes(line.dropFirst(2))
            if line.hasPrefix("C") { client.append(bytes) } else { server.append(bytes) }
        }
        self.client = client
        self.server = server
    }

    static func output(_ name: String) throws -> [String] {
        try String(contentsOf: folder.appendingPathComponent(name + ".txt"), encoding: .utf8)
            .split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
    }

    private static func bytes(_ hex: Substring) -> [UInt8] {
        let digits = Array(hex.utf8)
        return stride(from: 0, to: digits.count - 1, by: 2).map {
            UInt8(String(decoding: digits[$0..<($0 + 2)], as: UTF8.self), radix: 16)!
        }
    }

    /// The messages after the version, page size, cache line and MTU; the "done" at the end left out.
    static func records(_ messages: [[UInt8]]) -> [[UInt8]] {
        messages.dropFirst(4).filter { $0 != Array("done\0".utf8) }
    }
}
