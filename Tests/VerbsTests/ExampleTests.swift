// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

/// The program of the README, as it was built beside this test.
@Suite(
    "The example program",
    .enabled(if: getenv("VERBS_TEST_DEVICE") == nil, "VERBS_TEST_DEVICE is set: the example takes the best device"))
struct ExampleTests {
    @Test("greets another run of itself", .timeLimit(.minutes(10)))
    func greets() throws {
        setenv("VERBS_PROVIDER", "soft", 1)
        let first = try ChildProcess(Compiler.buildFolder + "/HelloVerbs")
        let second = try ChildProcess(Compiler.buildFolder + "/HelloVerbs")
        unsetenv("VERBS_PROVIDER")
        let firstEnd = try first.readLine()
        let secondEnd = try second.readLine()
        #expect(firstEnd.hasPrefix("RC,qpn=0x"))
        first.write(secondEnd + "\n")
        second.write(firstEnd + "\n")
        #expect(try first.readLine().hasPrefix("Hello from queue pair "))
        #expect(try second.readLine().hasPrefix("Hello from queue pair "))
        #expect(first.wait() == 0)
        #expect(second.wait() == 0)
    }

    @Test("is what the README shows")
    func readme() throws {
        let root = #filePath.split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
        let program = try text(of: root + "/Documentation/Examples/HelloVerbs/HelloVerbs.swift")
        let shown = program.split(separator: "\n", omittingEmptySubsequences: false).dropFirst().joined(separator: "\n")
        #expect(try text(of: root + "/README.md").contains("```swift\n" + shown + "```"))
        #expect(shown.split(separator: "\n").count <= 36, "it is meant to be short")
    }

    private func text(of path: String) throws -> String {
        guard let stream = fopen(path, "r") else { throw TimeoutError(description: path) }
        defer { fclose(stream) }
        var bytes = [UInt8](repeating: 0, count: 1 << 20)
        let count = fread(&bytes, 1, bytes.count, stream)
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }
}

/// A process of ours with its input and output on pipes. Ends with this object, if not before.
final class ChildProcess {
    private let process: pid_t
    private let input: Int32
    private let output: Int32
    private var isOver = false

    init(_ program: String) throws {
        var toChild: [Int32] = [0, 0]
        var fromChild: [Int32] = [0, 0]
        guard pipe(&toChild) == 0, pipe(&fromChild) == 0 else { throw TimeoutError(description: "pipe: \(errno)") }
        for descriptor in toChild + fromChild { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, toChild[0], 0)
        posix_spawn_file_actions_adddup2(&actions, fromChild[1], 1)
        // On a pipe the C library would keep lines back.
        let words: [String] = ["stdbuf", "-oL", program]
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
        arguments.append(nil)
        defer { arguments.forEach { free($0) } }
        var process: pid_t = 0
        let code = posix_spawnp(&process, "stdbuf", &actions, nil, &arguments, environ)
        close(toChild[0])
        close(fromChild[1])
        input = toChild[1]
        output = fromChild[0]
        self.process = process
        guard code == 0 else {
            isOver = true
            throw TimeoutError(description: "\(program): \(String(cString: strerror(code)))")
        }
    }

    deinit {
        if !isOver {
            kill(process, SIGKILL)
            _ = wait()
        }
        close(input)
        close(output)
    }

    func write(_ text: String) {
        let bytes = Array(text.utf8)
        _ = Glibc.write(input, bytes, bytes.count)
    }

    /// The next line, without its end; waits a minute at the most.
    func readLine() throws -> String {
        var line: [UInt8] = []
        while true {
            var entry = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
            guard poll(&entry, 1, 60_000) > 0 else { throw TimeoutError(description: "no line came") }
            var byte: UInt8 = 0
            guard read(output, &byte, 1) == 1 else { throw TimeoutError(description: "the program ended: \(line)") }
            if byte == 10 { return String(decoding: line, as: UTF8.self) }
            line.append(byte)
        }
    }

    /// The exit status, or the negative number of the signal.
    func wait() -> Int32 {
        var status: Int32 = 0
        waitpid(process, &status, 0)
        isOver = true
        return status & 0x7F == 0 ? status >> 8 & 0xFF : -(status & 0x7F)
    }
}
