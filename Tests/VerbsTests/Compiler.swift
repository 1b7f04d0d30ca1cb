// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The Swift compiler, for programs that use the library as built beside this test.
enum Compiler {
    struct Outcome {
        let status: Int32
        let output: String

        /// The texts of the errors, in order.
        var errors: [String] {
            output.split(separator: "\n").compactMap { line in
                guard line.first == "/", let range = line.firstRange(of: " error: ") else { return nil }
                return String(line[range.upperBound...])
            }
        }
    }

    /// Where SwiftPM has put the modules: beside the test program.
    static let buildFolder: String = {
        var path = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &path, path.count - 1)
        let program = String(decoding: path.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
        return String(program[..<(program.lastIndex(of: "/") ?? program.startIndex)])
    }()

    /// Compiles a program of one file as a client would, through the passes that diagnose ownership; makes nothing.
    static func compile(_ source: String, arguments: [String] = []) throws -> Outcome {
        var template = Array("/tmp/verbs-program-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw TimeoutError(description: "mkdtemp: \(errno)") }
        let folder = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
        defer { _ = try? run("rm", ["-r", folder]) }
        let file = folder + "/program.swift"
        guard let stream = fopen(file, "w") else { throw TimeoutError(description: "fopen: \(errno)") }
        fputs(source, stream)
        fclose(stream)
        return try run(
            "swiftc",
            [
                "-emit-sil", "-o", "/dev/null", "-swift-version", "6", "-parse-as-library", "-I",
                buildFolder + "/Modules",
                "-Xcc", "-fmodule-map-file=\(buildFolder)/CVerbsABI.build/module.modulemap",
                "-Xcc", "-fmodule-map-file=\(buildFolder)/CLinuxNet.build/module.modulemap",
            ] + arguments + [file])
    }

    /// Whether there is one to ask.
    static let isPresent = (try? run("swiftc", ["--version"]).status) == 0

    private static func run(_ program: String, _ arguments: [String]) throws -> Outcome {
        var descriptors: [Int32] = [0, 0]
        guard pipe(&descriptors) == 0 else { throw TimeoutError(description: "pipe: \(errno)") }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, descriptors[1], 1)
        posix_spawn_file_actions_adddup2(&actions, descriptors[1], 2)
        posix_spawn_file_actions_addclose(&actions, descriptors[0])
        let words = ([program] + arguments).map { strdup($0) }
        defer { words.forEach { free($0) } }
        var process: pid_t = 0
        let code = posix_spawnp(&process, program, &actions, nil, words + [nil], environ)
        close(descriptors[1])
        defer { close(descriptors[0]) }
        guard code == 0 else { throw TimeoutError(description: "\(program): \(String(cString: strerror(code)))") }
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(descriptors[0], &buffer, buffer.count)
            if count <= 0 { break }
            output += buffer.prefix(count)
        }
        var status: Int32 = 0
        waitpid(process, &status, 0)
        return Outcome(status: status >> 8 & 0xFF, output: String(decoding: output, as: UTF8.self))
    }
}
