// SPDX-License-Identifier: Apache-2.0
import Testing

@Suite("The table of transport rules") struct TransportRulesTests {
    /// A row: what it says, and the tests that it names.
    private struct Rule {
        let place: String
        let tests: [String]
    }

    private static let rules: [Rule] = {
        guard let file = SourceTree.package.textFiles.first(where: { $0.path == "Documentation/TransportRules.md" })
        else { return [] }
        return file.lines.indices.compactMap { index in
            let columns = file.lines[index].split(separator: "|")
            guard columns.count == 3, !columns[0].hasPrefix("---"), columns[2] != " test " else { return nil }
            return Rule(place: file.place(index), tests: spans(columns[2], between: "`"))
        }
    }()

    /// The names of all tests of the package, as `@Test` has them.
    private static let names: Set<String> = {
        var names: Set<String> = []
        for file in SourceTree.package.swiftFiles("Tests") {
            for (index, line) in file.lines.enumerated() where line.contains("@Test(") {
                // The name stands behind the parenthesis, or begins the next line.
                let rest = line[line.firstRange(of: "@Test(")!.upperBound...]
                let text = rest.isEmpty && index + 1 < file.lines.count ? file.lines[index + 1][...] : rest
                let name = text.drop { $0 == " " }
                if name.hasPrefix("\""), let first = spans(name, between: "\"").first { names.insert(first) }
            }
        }
        return names
    }()

    /// Every second part of a text that is cut at a mark.
    private static func spans(_ text: Substring, between mark: Character) -> [String] {
        text.split(separator: mark, omittingEmptySubsequences: false).enumerated()
            .filter { $0.offset % 2 == 1 }.map { String($0.element) }
    }

    @Test("Each rule names a test, and each test that is named exists")
    func testsExist() {
        #expect(Self.rules.count > 60, "the table was not found, or not understood")
        for rule in Self.rules {
            if rule.tests.isEmpty { Issue.record("\(rule.place): no test is named") }
            for test in rule.tests where !Self.names.contains(test) {
                Issue.record("\(rule.place): there is no test \"\(test)\"")
            }
        }
    }
}
