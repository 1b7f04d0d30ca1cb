// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

/// Two Ethernet interfaces at the ends of a wire, `w0` and `w1`, in a network namespace that is made for one test and goes with it.
enum VirtualWire {
    /// Namespaces want root, and the interfaces the program `ip`.
    static let isAvailable = geteuid() == 0 && access("/usr/sbin/ip", X_OK) == 0

    /// Runs the body in a thread of its own, which alone is in the namespace; its children and threads are, too.
    static func run(_ setUp: [String] = [], _ body: @escaping @Sendable () throws -> Void) throws {
        let work = Work(body: {
            guard enterNamespace(0x4000_0000) == 0 else {
                throw TimeoutError(description: "unshare(CLONE_NEWNET): errno \(errno)")
            }
            let commands =
                [
                    "link set lo up", "link add w0 type veth peer name w1", "addr add 10.88.0.1/24 dev w0",
                    "addr add 10.88.0.2/24 dev w1", "link set w0 up", "link set w1 up",
                ] + setUp
            for command in commands { try Self.ip(command) }
            try body()
        })
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                let work = Unmanaged<Work>.fromOpaque(argument!).takeRetainedValue()
                do { try work.body() } catch { work.error = error }
                return nil
            }, Unmanaged.passRetained(work).toOpaque())
        guard code == 0 else { throw TimeoutError(description: "pthread_create: errno \(code)") }
        pthread_join(thread, nil)
        if let error = work.error { throw error }
    }

    /// `unshare`, which Swift's Glibc does not show.
    private static let enterNamespace: @convention(c) (Int32) -> Int32 = unsafeBitCast(
        dlsym(UnsafeMutableRawPointer(bitPattern: 0), "unshare"), to: (@convention(c) (Int32) -> Int32).self)

    /// Runs `ip` with these words in the namespace of the calling thread.
    static func ip(_ words: String) throws { try command(["ip"] + words.split(separator: " ").map(String.init)) }

    /// Runs a program to its end, and throws if it does not end well.
    static func command(_ words: [String]) throws {
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
        arguments.append(nil)
        defer { for argument in arguments { free(argument) } }
        var process = pid_t()
        guard posix_spawnp(&process, words[0], nil, nil, arguments, environ) == 0 else {
            throw TimeoutError(description: "\(words[0]) does not start")
        }
        var status: Int32 = 0
        waitpid(process, &status, 0)
        guard status == 0 else { throw TimeoutError(description: "\(words.joined(separator: " ")): status \(status)") }
    }

    private final class Work: @unchecked Sendable {
        let body: () throws -> Void
        var error: (any Error)?
        init(body: @escaping () throws -> Void) { self.body = body }
    }
}
