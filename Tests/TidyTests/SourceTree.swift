// SPDX-License-Identifier: Apache-2.0
import Foundation

/// The text files of this package, found from the place of this file; what builds leave behind is not among them.
struct SourceTree {
    static let package = SourceTree(
        root: URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized)

    /// Every file, captures and images included, as a path relative to the root, sorted.
    let paths: [String]
    /// Those that are text.
    let textFiles: [SourceFile]

    init(root: URL) {
        let top = ["Sources", "Tests", "Benchmarks", "Documentation", "Dropin", "scripts", ".ci"]
        var found = ["Package.swift", "README.md", "CONTRIBUTING.md", "Makefile"]
        for folder in top {
            let names = FileManager.default.enumerator(atPath: root.appending(path: folder).path)
            while let name = names?.nextObject() as? String { found.append("\(folder)/\(name)") }
        }
        paths = found.filter { path in
            var isFolder: ObjCBool = false
            return !path.contains("/.build")
                && FileManager.default.fileExists(atPath: root.appending(path: path).path, isDirectory: &isFolder)
                && !isFolder.boolValue
        }.sorted()
        textFiles = paths.compactMap { path in
            (try? String(contentsOf: root.appending(path: path), encoding: .utf8)).map {
                SourceFile(path: path, text: $0)
            }
        }
    }

    /// The Swift files below these folders.
    func swiftFiles(_ folders: String...) -> [SourceFile] {
        textFiles.filter { file in file.path.hasSuffix(".swift") && folders.contains { file.path.hasPrefix($0 + "/") } }
    }
}

/// One file, as it stands and without comments and string literals.
struct SourceFile {
    let path: String
    /// As they stand, without line ends.
    let lines: [String]
    /// The same lines with comments, strings' contents and regular expressions blanked out.
    let code: [String]

    init(path: String, text: String) {
        self.path = path
        lines = text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        code = path.hasSuffix(".swift") ? SwiftText.withoutCommentsAndStrings(lines) : lines
    }

    /// The target that a file of Sources belongs to.
    var target: String? {
        let parts = path.split(separator: "/")
        return parts.count > 2 && parts[0] == "Sources" ? String(parts[1]) : nil
    }

    /// `path:line` of the line with this index, as editors understand it.
    func place(_ index: Int) -> String { "\(path):\(index + 1)" }
}

/// As much of Swift's grammar as telling code from text needs.
enum SwiftText {
    static func withoutCommentsAndStrings(_ lines: [String]) -> [String] {
        var commentDepth = 0
        var inMultilineString = false
        return lines.map { line in
            // Most lines have neither; the loop below is slow.
            let isPlain = !line.utf8.contains { $0 == UInt8(ascii: "\"") || $0 == UInt8(ascii: "/") }
            if isPlain { return commentDepth > 0 || inMultilineString ? "" : line }
            var result = ""
            var rest = Substring(line)
            var inString = false
            while let character = rest.first {
                if commentDepth > 0 {
                    if rest.hasPrefix("*/") { commentDepth -= 1; rest = rest.dropFirst(2); continue }
                    if rest.hasPrefix("/*") { commentDepth += 1; rest = rest.dropFirst(2); continue }
                } else if inMultilineString {
                    if rest.hasPrefix("\"\"\"") { inMultilineString = false; rest = rest.dropFirst(3); continue }
                } else if inString {
                    if character == "\\" { rest = rest.dropFirst(2); continue }
                    if character == "\"" { inString = false; result.append(character) }
                } else if rest.hasPrefix("//") {
                    break
                } else if rest.hasPrefix("/*") {
                    commentDepth += 1; rest = rest.dropFirst(2); continue
                } else if rest.hasPrefix("\"\"\"") {
                    inMultilineString = true; rest = rest.dropFirst(3); continue
                } else {
                    if character == "\"" { inString = true }
                    result.append(character)
                }
                rest = rest.dropFirst()
            }
            return result
        }
    }
}
