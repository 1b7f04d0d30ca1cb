// SPDX-License-Identifier: Apache-2.0
import Testing

/// Where `unsafe` may stand, and why it must. A path that ends in a slash stands for the folder.
///
/// The two pure targets and the command are listed by file. PacketIO and the providers are listed as a whole: every file of theirs calls C.
private let unsafePlaces: [String: String] = [
    "Sources/PacketIO/": "system calls, and the arenas and rings that the kernel fills",
    "Sources/SystemProvider/": "libibverbs' objects and functions, found at run time",
    "Sources/SoftProvider/": "the genuine ibv_context, ibv_qp and ibv_cq that C callers dereference",
    "Sources/Verbs/": "objects of the C ABI behind both providers, and registered memory",

    "Sources/RoCEWire/ICRC/ICRC.swift": "passes bytes to the CRC kernel in C",
    "Sources/RoCEWire/ICRC/ICRCVerifier.swift": "caches behind a pointer, so that a check moves no large value",
    "Sources/RoCEWire/RawSpan+BigEndian.swift":
        "typed loads and stores at checked offsets: the only ones of the target",

    "Sources/FlowSteering/Classifier/TupleRecords.swift": "rules in memory of their own, read by pointer in the lookup",
    "Sources/FlowSteering/Classifier/ClassifierMemory.swift": "tables on cache lines and in huge pages",
    "Sources/FlowSteering/Classifier/RuleMasks.swift": "masks in memory of their own, read by pointer in the lookup",
    "Sources/FlowSteering/Classifier/TupleTable.swift": "buckets are cache lines, which arrays are not aligned to",
    "Sources/FlowSteering/Classifier/TupleLookup.swift":
        "the loops over keys, buckets and rules, and their scratch memory",
    "Sources/FlowSteering/Classifier/FlowClassifier.swift": "lends spans of keys to the lookup",

    "Sources/RoCETransport/Engine/": "the engine's objects live in memory allocated at init, not in arrays",
    "Sources/RoCETransport/Memory/": "registered regions: the application's memory",
    "Sources/RoCETransport/QueuePair/": "copies between registered regions and packets",
    "Sources/RoCETransport/Rings/": "rings shared between one application thread and the engine",

    "Sources/VerbsPerf/":
        "payloads and work requests at raw addresses: the tool measures the raw level; TCP sockets for the handshake",
    "Sources/VerbsCommand/": "terminal, limits and processes of the C library",
]

@Suite("Unsafe code") struct UnsafeTests {
    @Test("It stands only in the files that this test lists with a reason")
    func isListed() {
        for file in SourceTree.package.swiftFiles("Sources") where reason(for: file.path) == nil {
            for (index, line) in file.code.enumerated() where hasUnsafe(line) {
                Issue.record(
                    "\(file.place(index)): unsafe code in a file that is not listed; move it, or list the file with the reason"
                )
            }
        }
    }

    @Test("Every entry of the list is needed")
    func listIsMinimal() {
        let users = SourceTree.package.swiftFiles("Sources").filter { $0.code.contains(where: hasUnsafe) }.map(\.path)
        for place in unsafePlaces.keys
        where !users.contains(where: { $0 == place || (place.hasSuffix("/") && $0.hasPrefix(place)) }) {
            Issue.record("\(place) has no unsafe code any more; take it off the list")
        }
    }

    @Test(
        "A promise to the compiler that it cannot check says why it holds",
        arguments: ["@unchecked Sendable", "nonisolated(unsafe)"])
    func promisesAreExplained(promise: String) {
        for file in SourceTree.package.swiftFiles("Sources") {
            for (index, line) in file.code.enumerated() where line.contains(promise) {
                let around = file.lines[max(0, index - 3)...min(index + 1, file.lines.count - 1)]
                if around.contains(where: { $0.contains("//") }) { continue }
                Issue.record("\(file.place(index)): \(promise) without a comment that says why it holds")
            }
        }
    }

    @Test("The keyword is told from longer names")
    func keyword() {
        #expect(hasUnsafe("let a = unsafe pointer.pointee"))
        #expect(hasUnsafe("@unsafe struct A"))
        #expect(!hasUnsafe("UnsafeRawPointer"))
        #expect(!hasUnsafe("withUnsafeBytes"))
        #expect(!hasUnsafe("safe"))
    }

    private func reason(for path: String) -> String? {
        unsafePlaces.first { path == $0.key || ($0.key.hasSuffix("/") && path.hasPrefix($0.key)) }?.value
    }
}

/// Whether the line has the keyword or attribute `unsafe` as a word.
private func hasUnsafe(_ line: String) -> Bool {
    var rest = Substring(line)
    while let range = rest.firstRange(of: "unsafe") {
        func joins(_ character: Character?) -> Bool {
            character.map { $0.isLetter || $0.isNumber || $0 == "_" } ?? false
        }
        if !joins(rest[..<range.lowerBound].last) && !joins(rest[range.upperBound...].first) { return true }
        rest = rest[range.upperBound...]
    }
    return false
}
