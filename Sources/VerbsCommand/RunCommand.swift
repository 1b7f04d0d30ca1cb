// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Glibc

struct RunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Run a program that was written for libibverbs over the software device.",
        discussion: """
            Starts the program with this package's libibverbs.so.1 in the place of rdma-core's, by LD_LIBRARY_PATH. The \
            library is looked for beside this command and in ../lib/swift-verbs; Dropin/build makes it. Programs that ask \
            for /dev/infiniband/DEVICE get an answer from libverbs-nodes.so of the same folder, by LD_PRELOAD.

            Examples:
              verbs run -- ibv_devinfo -v
              verbs run --libraries .build-dropin/lib -- ib_send_bw -d soft_lo -x 0
            """)

    @Option(name: .long, help: "The folder of libibverbs.so.1.")
    var libraries: String?

    @Flag(name: .shortAndLong, help: "Say which library the program gets.")
    var verbose = false

    @Argument(parsing: .postTerminator, help: "The program and its arguments, behind `--`.")
    var command: [String]

    func validate() throws {
        if command.isEmpty { throw ValidationError("Which program? For example: verbs run -- ibv_devinfo") }
    }

    func run() throws {
        let folder = try self.folder()
        if verbose { CommandOutput.note("\(command[0]) gets \(folder)/libibverbs.so.1") }
        Self.prepend(folder, to: "LD_LIBRARY_PATH")
        let nodes = folder + "/libverbs-nodes.so"
        if unsafe access(nodes, R_OK) == 0 { Self.prepend(nodes, to: "LD_PRELOAD") }
        // Freed by nobody: the call returns only if it fails, and then the process ends.
        var words = unsafe command.map { unsafe strdup($0) }
        unsafe words.append(nil)
        unsafe execvp(words[0]!, words)
        let code = errno
        CommandOutput.note("\(command[0]): \(unsafe String(cString: strerror(code)))")
        throw ExitCode(code == ENOENT ? 127 : 126)
    }

    /// Puts an entry in front of a list of the environment. Nobody else runs in this process, which becomes the program.
    private static func prepend(_ entry: String, to variable: String) {
        let before = unsafe getenv(variable).map { unsafe String(cString: $0) } ?? ""
        unsafe setenv(variable, before.isEmpty ? entry : entry + ":" + before, 1)
    }

    /// The first folder that has the library.
    private func folder() throws -> String {
        let candidates = libraries.map { [$0] } ?? Self.usualFolders()
        for candidate in candidates {
            guard let path = unsafe realpath(candidate + "/libibverbs.so.1", nil) else { continue }
            defer { unsafe free(path) }
            let found = unsafe String(cString: path)
            return String(found[..<(found.lastIndex(of: "/") ?? found.startIndex)])
        }
        throw ValidationError(
            """
            libibverbs.so.1 is not in \(candidates.joined(separator: " or ")). Build it with Dropin/build, and name its \
            folder with --libraries.
            """)
    }

    /// Where an installation has it, and a checkout.
    private static func usualFolders() -> [String] {
        guard let path = unsafe realpath("/proc/self/exe", nil) else { return [] }
        defer { unsafe free(path) }
        let program = unsafe String(cString: path)
        let here = String(program[..<(program.lastIndex(of: "/") ?? program.startIndex)])
        return [here + "/../lib/swift-verbs", here + "/../../../.build-dropin/lib", here]
    }
}
