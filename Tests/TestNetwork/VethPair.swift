// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc

/// Two network namespaces joined by a veth pair, gone with the thread that has them: `va` with 10.88.0.1 and fd88::1 in
/// the first, `vb` with 10.88.0.2 and fd88::2 in the second.
package final class VethPair {
    private let first: Int32
    private let second: Int32

    /// Runs the body on a thread of its own that is in the first namespace.
    package static func run<Value>(_ body: @escaping (VethPair) throws -> Value) throws -> Value {
        try inOwnNetwork { try body(VethPair()) }
    }

    private init() throws {
        first = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
        guard unshareNetwork() else { throw NetworkError.last("unshare(CLONE_NEWNET)") }
        second = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
        let here = "/proc/\(getpid())/fd/\(first)"
        try command("ip link set lo up")
        try command("ip link add vb type veth peer name va netns \(here)")
        try setUp("vb", 2)
        try inFirst { try setUp("va", 1) }
        enter(first)
    }

    deinit {
        close(first)
        close(second)
    }

    private func setUp(_ interface: String, _ number: Int) throws {
        try command("ip addr add 10.88.0.\(number)/24 dev \(interface)")
        try command("ip addr add fd88::\(number)/64 dev \(interface) nodad")
        try command("ip link set \(interface) up")
    }

    package func inFirst<Value: ~Copyable>(_ body: () throws -> Value) rethrows -> Value {
        enter(first)
        return try body()
    }

    package func inSecond<Value: ~Copyable>(_ body: () throws -> Value) rethrows -> Value {
        enter(second)
        defer { enter(first) }
        return try body()
    }

    private func enter(_ namespace: Int32) {
        typealias SetNamespace = @convention(c) (Int32, Int32) -> Int32
        // Not in Swift's Glibc module.
        let set = unsafeBitCast(dlsym(nil, "setns")!, to: SetNamespace.self)
        precondition(set(namespace, 0x4000_0000) == 0, "setns")
    }

    /// Runs a program in the namespace that the thread is in; its output, where it succeeds.
    @discardableResult
    package func command(_ line: String) throws -> String {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw NetworkError.last("pipe") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, ends[1], 1)
        defer { posix_spawn_file_actions_destroy(&actions) }
        var arguments: [UnsafeMutablePointer<CChar>?] = line.split(separator: " ").map { strdup(String($0)) } + [nil]
        defer { arguments.forEach { free($0) } }
        var child: pid_t = 0
        let code = spawning.withLock { _ in posix_spawnp(&child, arguments[0]!, &actions, nil, &arguments, environ) }
        close(ends[1])
        defer { close(ends[0]) }
        guard code == 0 else { throw NetworkError("\(line): \(String(cString: strerror(code)))") }
        var output: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(ends[0], &chunk, chunk.count)
            if count <= 0 { break }
            output += chunk[..<count]
        }
        var status: Int32 = -1
        guard waitpid(child, &status, 0) == child, status == 0 else {
            throw NetworkError("\(line): status \(status)")
        }
        return String(decoding: output, as: UTF8.self)
    }
}
