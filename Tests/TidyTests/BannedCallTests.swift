// SPDX-License-Identifier: Apache-2.0
import Testing

/// A call that has a better replacement in some part of the package.
private struct BannedCall: CustomTestStringConvertible, Sendable {
    /// Matched where no identifier character stands before it.
    let call: String
    /// Path prefixes where it is banned, and those within them where it is not.
    let places: [String]
    var exceptions: [String] = []
    /// Completes "use ...".
    let replacement: String

    var testDescription: String { call }

    func applies(to path: String) -> Bool {
        places.contains { path.hasPrefix($0) } && !exceptions.contains { path.hasPrefix($0) }
    }

    func occurs(in line: String) -> Bool {
        var rest = Substring(line)
        while let range = rest.firstRange(of: call) {
            let before = rest[..<range.lowerBound].last
            if !(before.map { $0.isLetter || $0.isNumber || $0 == "_" || $0 == "." } ?? false) { return true }
            rest = rest[range.upperBound...]
        }
        return false
    }
}

private let engine = ["Sources/RoCEWire/", "Sources/RoCETransport/"]
private let dataPath = engine + ["Sources/PacketIO/", "Sources/SoftProvider/"]

private let libraries = dataPath + ["Sources/SystemProvider/", "Sources/Verbs/"]

private let bannedCalls: [BannedCall] = [
    BannedCall(
        call: "print(", places: ["Sources/"], exceptions: ["Sources/VerbsCommand/"],
        replacement: "a value that the caller shows; only the command writes to the terminal"),
    BannedCall(
        call: "fatalError(", places: dataPath,
        replacement: "an error, a completion status or a counted drop: nothing that a peer or the kernel sends may trap"
    ),
    BannedCall(call: "try!", places: ["Sources/"], replacement: "a typed throw"),
    BannedCall(call: "as!", places: ["Sources/"], replacement: "a type that makes the cast unnecessary"),
    BannedCall(
        call: "usleep(", places: libraries, exceptions: ["Sources/PacketIO/Waiter.swift"],
        replacement: "PacketIO's Waiter, which another thread can wake"),
    BannedCall(
        call: "sleep(", places: libraries, exceptions: ["Sources/PacketIO/Waiter.swift"],
        replacement: "PacketIO's Waiter, which another thread can wake"),
    BannedCall(
        call: "clock_gettime(", places: engine, replacement: "the Timestamp that every input of the engine carries"),
    BannedCall(
        call: "ContinuousClock", places: engine, replacement: "the Timestamp that every input of the engine carries"),
    BannedCall(
        call: "SystemRandomNumberGenerator", places: engine,
        replacement: "the generator given to the engine, so that a simulation can be repeated"),
    BannedCall(
        call: "Mutex", places: engine, replacement: "the lock of SoftProvider: one thread at a time is in the engine"),
    BannedCall(
        call: "withUnsafeTemporaryAllocation(", places: engine,
        replacement: "an arena that was allocated at creation: over 1 KiB this call goes to the heap"),
    BannedCall(
        call: "ibv_reg_mr(", places: ["Sources/"],
        replacement:
            "ibv_reg_mr_iova2: Swift sees the exported function, not the macro that masks the optional access flags"),
    BannedCall(
        call: "ibv_query_port(", places: ["Sources/"],
        replacement: "___ibv_query_port: Swift sees the compatibility entry point with the old attribute structure"),
    BannedCall(call: "NSLog(", places: ["Sources/"], replacement: "a value that the caller shows"),
    BannedCall(call: "unsafeBitCast(", places: engine, replacement: "the typed load and store of RoCEWire"),
]

@Suite("Banned calls") struct BannedCallTests {
    @Test("A call that has a better replacement does not occur", arguments: bannedCalls)
    private func callDoesNotOccur(banned: BannedCall) {
        for file in SourceTree.package.swiftFiles("Sources") where banned.applies(to: file.path) {
            for (index, line) in file.code.enumerated() where banned.occurs(in: line) {
                Issue.record("\(file.place(index)): \(banned.call)...: use \(banned.replacement)")
            }
        }
    }

    @Test("Code is told from comments, strings and longer names")
    func matching() {
        let call = BannedCall(call: "sleep(", places: ["Sources/"], exceptions: ["Sources/A/"], replacement: "")
        let text = SwiftText.withoutCommentsAndStrings([
            "sleep(1)", "// sleep(1)", "let a = \"sleep(1)\"", "/* sleep(1)", "sleep(1) */ sleep(2)", "usleep(1)",
            "a.sleep(for: 1)",
        ])
        #expect(text.map(call.occurs) == [true, false, false, false, true, false, false])
        #expect(call.applies(to: "Sources/B/C.swift"))
        #expect(!call.applies(to: "Sources/A/C.swift"))
        #expect(!call.applies(to: "Tests/B/C.swift"))
    }
}
