// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsPerf

/// The server process of `--loopback`: this program again, with a listening socket that it inherits, so that there is
/// no moment in which the client could come too early and no port to agree on.
final class LoopbackServer {
    private var process: pid_t

    /// Starts it.
    ///
    /// - Parameters:
    ///   - arguments: this process's own; `--loopback` and what only concerns printing is taken out.
    ///   - listener: the socket to pass on.
    init(arguments: [String], listener: borrowing PeerListener) throws(PerfError) {
        let inherited = listener.descriptorForChild()
        defer { _ = Glibc.close(inherited) }
        let words =
            [arguments.first ?? "verbs"] + arguments.dropFirst().filter { $0 != "--loopback" && $0 != "--json" }
            + ["--serve-descriptor", String(inherited)]
        process = 0
        // The C strings are freed after the spawn, which copies them.
        var argv = unsafe words.map { unsafe strdup($0) } + [nil]
        defer { for index in words.indices { unsafe free(argv[index]) } }
        let status = unsafe posix_spawn(&process, "/proc/self/exe", nil, nil, &argv, environ)
        guard status == 0 else {
            throw .device("Cannot start the server process: \(errorText(status)).")
        }
    }

    /// Waits for its end and returns its exit status; 128 + the signal's number if one ended it.
    func wait() -> Int32 {
        guard process > 0 else { return 0 }
        var status: Int32 = 0
        // A local variable, written during the call.
        while unsafe waitpid(process, &status, 0) < 0, errno == EINTR {}
        process = 0
        return status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + status & 0x7F
    }

    /// Ends it, after a failure of the client. Gives it a moment to say by itself what was wrong.
    func stop() {
        for _ in 0..<20 where process > 0 {
            var status: Int32 = 0
            if unsafe waitpid(process, &status, WNOHANG) == process { process = 0 } else { usleep(50_000) }
        }
        guard process > 0 else { return }
        _ = kill(process, SIGTERM)
        _ = wait()
    }
}
