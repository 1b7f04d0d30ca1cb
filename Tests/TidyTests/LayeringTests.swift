// SPDX-License-Identifier: Apache-2.0
import Testing

/// The arrows of Documentation/Architecture.md: what each target may import, and nothing else.
///
/// The compiler would accept more: a target sees what its dependencies depend on.
private let allowedImports: [String: Set<String>] = [
    "RoCEWire": ["CLinuxNet"],
    "RoCETransport": ["RoCEWire", "Synchronization"],
    "FlowSteering": ["RoCEWire", "CLinuxNet"],
    "PacketIO": ["CLinuxNet", "RoCEWire", "Glibc", "Synchronization"],
    "FlowPrograms": ["FlowSteering", "PacketIO"],
    "FlowLending": ["FlowSteering", "FlowPrograms", "PacketIO"],
    "VerbsABI": ["CVerbsABI"],
    "SystemProvider": ["VerbsABI", "CVerbsABI", "Glibc", "Synchronization"],
    "SoftProvider": [
        "VerbsABI", "CVerbsABI", "RoCETransport", "RoCEWire", "FlowSteering", "FlowPrograms", "PacketIO", "FlowLending",
        "CLinuxNet", "Glibc", "Synchronization",
    ],
    "Verbs": [
        "VerbsABI", "CVerbsABI", "FlowSteering", "SystemProvider", "SoftProvider", "CLinuxNet", "Dispatch", "Glibc",
        "Synchronization",
    ],
    "VerbsPerf": ["Verbs", "Histogram", "TextTable", "Glibc", "Synchronization"],
    "VerbsCommand": [
        "Verbs", "VerbsPerf", "FlowLending", "PacketIO", "ArgumentParser", "TextTable", "FoundationEssentials", "Glibc",
        "Synchronization",
    ],
]

/// What a target that reaches for these should do instead.
private let insteadOf = [
    "Foundation": "FoundationEssentials in the command; the libraries need neither",
    "Dispatch": "PacketIO's Waiter: only Verbs waits for descriptors in async functions",
    "Darwin": "Glibc behind CLinuxNet: this package is for Linux",
]

@Suite("Layering") struct LayeringTests {
    @Test("A target imports only what the layers below it are")
    func importsFollowTheTable() {
        for file in SourceTree.package.swiftFiles("Sources") {
            guard let target = file.target, let allowed = allowedImports[target] else {
                Issue.record("\(file.path): its target is not in the table of this test")
                continue
            }
            for (index, line) in file.code.enumerated() {
                guard let module = importedModule(line), !allowed.contains(module) else { continue }
                let remedy = insteadOf[module].map { "; use \($0)" } ?? ""
                Issue.record("\(file.place(index)): \(target) may not import \(module)\(remedy)")
            }
        }
    }

    @Test("Tests of the pure layers need no system module")
    func pureLayersStayPure() {
        for target in ["RoCEWire", "RoCETransport", "FlowSteering"] {
            #expect(
                allowedImports[target]?.isDisjoint(with: ["Glibc", "Foundation", "FoundationEssentials", "Dispatch"])
                    == true)
        }
    }

    @Test(
        "An import is recognised however it is written",
        arguments: [
            ("import RoCEWire", "RoCEWire"), ("package import RoCEWire", "RoCEWire"),
            ("@_exported import CVerbsABI", "CVerbsABI"),
            ("@testable import Verbs", "Verbs"), ("import struct Glibc.timespec", "Glibc"), ("let important = 1", nil),
            ("", nil),
        ] as [(String, String?)])
    func importsAreRecognised(line: String, module: String?) {
        #expect(importedModule(line) == module)
    }
}

/// The module that this line imports.
private func importedModule(_ line: String) -> String? {
    let words = line.split(separator: " ")
    guard let position = words.firstIndex(of: "import"), position + 1 < words.count,
        words[..<position].allSatisfy({
            $0.hasPrefix("@") || ["public", "package", "internal", "private", "fileprivate"].contains($0)
        })
    else { return nil }
    let kinds: Set<Substring> = ["struct", "class", "enum", "protocol", "func", "var", "let", "typealias"]
    let name = kinds.contains(words[position + 1]) ? words.dropFirst(position + 2).first : words[position + 1]
    return name.map { String($0.prefix { $0 != "." }) }
}
