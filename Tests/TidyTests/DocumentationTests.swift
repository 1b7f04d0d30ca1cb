// SPDX-License-Identifier: Apache-2.0
import Testing

@Suite("Documentation of symbols") struct DocumentationTests {
    @Test("Every public symbol, and every type and free function between targets, says what it is")
    func symbolsAreDocumented() {
        for file in SourceTree.package.swiftFiles("Sources") {
            for (index, line) in file.code.enumerated() {
                guard let declaration = Declaration(line), declaration.needsDocumentation else { continue }
                if !isDocumented(file, index) {
                    Issue.record("\(file.place(index)): \(declaration.text) has no documentation comment")
                }
            }
        }
    }

    @Test(
        "What needs a comment is recognised",
        arguments: [
            ("public struct Device: Sendable {", true), ("package func receive(_ bytes: RawSpan) {", true),
            ("    package func receive(_ bytes: RawSpan) {", false),
            ("    package enum Kind {", true),
            ("    @inlinable public static func + (left: PSN, right: Int) -> PSN {", true),
            ("    public var limit: Int", true),
            ("    package var limit: Int", false), ("    func local() {", false), ("public extension Device {", false),
            ("    public init(from decoder: any Decoder) throws {", true),
            ("    public var description: String {", false),
            ("    public static func == (left: PSN, right: PSN) -> Bool {", false),
            ("    public func hash(into hasher: inout Hasher) {", false),
            ("extension PSN: Comparable {", false), ("    package init(rawValue: UInt32) {", false),
            ("    public case a", false),
        ])
    func declarationsAreRecognised(line: String, needed: Bool) {
        #expect((Declaration(line)?.needsDocumentation ?? false) == needed)
    }

    /// Whether a `///` line stands above, with only attributes and conditions between.
    private func isDocumented(_ file: SourceFile, _ index: Int) -> Bool {
        for above in file.lines[..<index].reversed() {
            let line = above.drop { $0 == " " }
            if line.hasPrefix("///") { return true }
            if !line.hasPrefix("@") && !line.hasPrefix("#") && !line.hasPrefix("//") { return false }
        }
        return false
    }
}

/// A line that declares something for other targets.
private struct Declaration {
    let isPublic: Bool
    /// Told by the indentation.
    let isMember: Bool
    /// `func`, `struct`, ...
    let kind: Substring
    /// From the kind to the end of the line.
    let text: String

    private static let modifiers: Set<Substring> = [
        "public", "package", "open", "static", "final", "mutating", "nonmutating", "borrowing", "consuming", "override",
        "required",
        "convenience", "indirect", "nonisolated", "nonisolated(unsafe)", "class", "unsafe", "lazy", "weak",
        "private(set)", "package(set)",
        "internal(set)", "fileprivate(set)",
    ]
    private static let kinds: Set<Substring> = [
        "func", "var", "let", "struct", "class", "enum", "protocol", "actor", "typealias", "subscript", "init",
    ]

    init?(_ line: String) {
        let words = Array(line.split(separator: " ").drop { $0.hasPrefix("@") })
        guard let access = words.firstIndex(where: { $0 == "public" || $0 == "package" || $0 == "open" }),
            let position = words.indices.first(where: { !Self.modifiers.contains(words[$0]) || Self.isKind(words, $0) }
            ),
            position > access, Self.isKind(words, position)
        else { return nil }
        isMember = line.hasPrefix(" ")
        isPublic = words[access] != "package"
        kind = words[position].prefix { $0.isLetter }
        text = words[position...].joined(separator: " ")
    }

    /// `class` is a kind, except before another one (`class func`).
    private static func isKind(_ words: [Substring], _ position: Int) -> Bool {
        func kind(_ position: Int) -> Bool {
            position < words.count && kinds.contains(words[position].prefix { $0.isLetter })
        }
        return kind(position) && !(words[position] == "class" && kind(position + 1))
    }

    /// What may go without: members that a protocol explains, of the standard library or one of ours; and between targets, members of
    /// a type whose comment explains them.
    var needsDocumentation: Bool {
        let known = [
            "var description:", "var debugDescription:", "func == ", "func < ", "func hash(into", "init(rawValue:",
            "var rawValue:",
        ]
        if known.contains(where: text.hasPrefix) { return false }
        let isType = ["struct", "class", "enum", "protocol", "actor"].contains(kind)
        return isPublic || isType || (kind == "func" && !isMember)
    }
}
