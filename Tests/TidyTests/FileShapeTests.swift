// SPDX-License-Identifier: Apache-2.0
import Testing

@Suite("Shape of files") struct FileShapeTests {
    static let linesMax = 800

    @Test("A file stays under 800 lines")
    func length() {
        for file in SourceTree.package.textFiles
        where !file.path.hasPrefix("Documentation/") && file.lines.count > Self.linesMax {
            Issue.record("\(file.path) has \(file.lines.count) lines; split it by idea, the limit is \(Self.linesMax)")
        }
    }

    @Test("The first lines name the licence")
    func licence() {
        let extensions = [".swift", ".c", ".h", ".sh"]
        for file in SourceTree.package.textFiles where !file.path.hasPrefix("Tests/Fixtures/") {
            let isProgram = file.lines.first?.hasPrefix("#!") == true
            guard isProgram || extensions.contains(where: file.path.hasSuffix) else { continue }
            if file.lines.prefix(2).contains(where: { $0.contains("SPDX-License-Identifier: Apache-2.0") }) { continue }
            Issue.record("\(file.path): the first line should be SPDX-License-Identifier: Apache-2.0")
        }
    }

    @Test("No folder or file has a space in its name")
    func names() {
        for path in SourceTree.package.paths where path.contains(" ") { Issue.record("\(path): no spaces in names") }
    }

    @Test("No file is named for being useful")
    func vagueNames() {
        let vague = ["Utils", "Util", "Helpers", "Helper", "Manager", "Misc", "Common"]
        for file in SourceTree.package.swiftFiles("Sources", "Tests", "Benchmarks") {
            let name = file.path.split(separator: "/").last.map { $0.dropLast(".swift".count) } ?? ""
            if vague.contains(where: { name.hasSuffix($0) }) {
                Issue.record("\(file.path): name it after its main type")
            }
        }
    }

    @Test("Nothing is left unfinished")
    func markers() {
        let words = ["TO" + "DO", "FIX" + "ME", "XX" + "X:", "HA" + "CK:"]
        for file in SourceTree.package.textFiles {
            for (index, line) in file.lines.enumerated() {
                for word in words where line.contains(word) {
                    Issue.record(
                        "\(file.place(index)): \(word): finish it, or write it down in Documentation/Roadmap.md")
                }
            }
        }
    }

    @Test("No path of one person's machine stands anywhere")
    func machinePaths() {
        let paths = [
            "/home" + "/", "/Users" + "/", "/work" + "/h/", "/work" + "/main", "/work" + "/shared", "../shared" + "/",
        ]
        for file in SourceTree.package.textFiles {
            for (index, line) in file.lines.enumerated() {
                for path in paths where line.contains(path) {
                    Issue.record("\(file.place(index)): \(path)...: a path of one machine")
                }
            }
        }
    }
}
