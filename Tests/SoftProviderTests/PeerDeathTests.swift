// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCEWire
import SoftEnds
import Testing
import VerbsABI

@testable import SoftProvider

/// A process with the other end of a connection.
final class PeerProcess {
    let identifier: pid_t
    private let input: UnsafeMutablePointer<FILE>
    private let output: UnsafeMutablePointer<FILE>
    private var isReaped = false

    struct SpawnError: Error { let code: Int32 }

    init(arguments words: [String] = []) throws {
        var toChild: [Int32] = [0, 0]
        var fromChild: [Int32] = [0, 0]
        pipe(&toChild)
        pipe(&fromChild)
        for end in toChild + fromChild { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, toChild[0], 0)
        posix_spawn_file_actions_adddup2(&actions, fromChild[1], 1)
        let path = Self.executable
        var arguments: [UnsafeMutablePointer<CChar>?] = ([path] + words).map { strdup($0) } + [nil]
        var identifier = pid_t()
        let code = posix_spawn(&identifier, path, &actions, nil, &arguments, environ)
        arguments.forEach { free($0) }
        posix_spawn_file_actions_destroy(&actions)
        close(toChild[0])
        close(fromChild[1])
        input = fdopen(toChild[1], "w")
        output = fdopen(fromChild[0], "r")
        self.identifier = identifier
        guard code == 0 else {
            isReaped = true
            throw SpawnError(code: code)
        }
    }

    deinit {
        kill()
        fclose(input)
        fclose(output)
    }

    func kill() {
        guard !isReaped else { return }
        isReaped = true
        Glibc.kill(identifier, SIGKILL)
        var status: Int32 = 0
        waitpid(identifier, &status, 0)
    }

    func write(_ line: String) {
        fputs(line + "\n", input)
        fflush(input)
    }

    func read() -> String? {
        var buffer = [CChar](repeating: 0, count: 256)
        guard fgets(&buffer, 256, output) != nil else { return nil }
        return String(decoding: buffer.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    /// The executable is built beside the test bundle, which this process has mapped; its own executable is the
    /// toolchain's.
    private static var executable: String {
        guard let maps = fopen("/proc/self/maps", "r") else { return "SoftPeer" }
        defer { fclose(maps) }
        var buffer = [CChar](repeating: 0, count: 4096)
        while fgets(&buffer, 4096, maps) != nil {
            let line = String(
                decoding: buffer.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            guard line.hasSuffix("PackageTests.xctest"), let start = line.firstIndex(of: "/") else { continue }
            return line[start...].split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/SoftPeer"
        }
        return "SoftPeer"
    }

    /// Connects a new end to the process.
    func connected(timeout: UInt8) throws -> (end: SoftEnd, remote: RemoteEnd)? {
        let end = try SoftEnd(byteCount: 1 << 20, depth: 64)
        guard let line = read(), let remote = RemoteEnd(line) else { return nil }
        try end.connect(to: remote, timeout: timeout)
        write(end.description.text)
        guard read() == "connected" else { return nil }
        return (end, remote)
    }
}

@Suite("A peer in another process", .serialized, .timeLimit(.minutes(10)))
struct PeerDeathTests {
    @Test("Killed in the middle of transfers, it leaves a retry-exceeded completion and flushes, and its slot at once")
    func killed() throws {
        let peer = try PeerProcess()
        // 4.096 µs · 2^10 = 4.2 ms, up to seven times: soon over, and long enough for a busy machine.
        let (end, remote) = try #require(try peer.connected(timeout: 12))
        let slot = QPN(truncating: remote.qpn).slot
        var posted = 0
        var successes = 0
        while successes < 200 {
            while posted - successes < 32 {
                #expect(
                    end.post(.IBV_WR_RDMA_WRITE, id: UInt64(posted), offset: 0, length: 65_536, remote: remote) == 0)
                posted += 1
            }
            let completions = end.completions(1)
            try #require(completions.map(\.status) == [.IBV_WC_SUCCESS])
            successes += 1
        }
        let context = try #require(end.path as? SoftContext)
        #expect(context.withCore { $0.link.hostPeerCount } > 0)
        #expect(end.path.counters().contains { $0.name == "link_shared_tx_bursts" && $0.value > 0 })
        peer.kill()
        // The kernel closed its sockets with it; nobody has to notice first.
        #expect(try !SlotClaim.living(on: GID(ipv4: 0x7F00_0001))[slot])
        // Through memory, or on a busy machine, it may have taken all that was posted before.
        while posted < successes + 64 {
            #expect(end.post(.IBV_WR_RDMA_WRITE, id: UInt64(posted), offset: 0, length: 65_536, remote: remote) == 0)
            posted += 1
        }

        let rest = end.completions(posted - successes)
        #expect(rest.count == posted - successes)
        #expect(rest.map(\.wr_id) == (successes..<posted).map(UInt64.init))
        let failed = rest.drop { $0.status == .IBV_WC_SUCCESS }
        #expect(failed.first?.status == .IBV_WC_RETRY_EXC_ERR)
        #expect(failed.dropFirst().allSatisfy { $0.status == .IBV_WC_WR_FLUSH_ERR })
        #expect(end.completions(1, within: 0.05).isEmpty)
        #expect(context.withCore { $0.link.hostPeerCount } == 0)
        try end.close()

        // The device is usable: another peer, another connection.
        let second = try PeerProcess()
        let (again, other) = try #require(try second.connected(timeout: 14))
        #expect(again.post(.IBV_WR_RDMA_WRITE, id: 1, offset: 0, length: 65_536, remote: other) == 0)
        #expect(again.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        try again.close()
    }

    @Test(
        "An idle queue pair takes less than 4 KiB, its queues of one work request each included",
        .enabled(if: getenv("TSAN_OPTIONS") == nil, "a sanitizer remembers every byte"))
    func idle() throws {
        let process = try PeerProcess(arguments: ["2048"])
        let bytes = try #require(process.read().flatMap { Int($0) })
        #expect(bytes > 500 && bytes < 4096)
    }

    @Test("A target that sleeps is served by its device's thread")
    func sleeping() throws {
        let peer = try PeerProcess()
        let (end, remote) = try #require(try peer.connected(timeout: 14))
        end.fill(5)
        for index in 0..<64 {
            #expect(
                end.post(
                    .IBV_WR_RDMA_WRITE, id: 0, offset: index * 8192, length: 8192, remote: remote,
                    remoteOffset: index * 8192)
                    == 0)
        }
        #expect(end.completions(64).allSatisfy { $0.status == .IBV_WC_SUCCESS })
        let sent = Array(UnsafeRawBufferPointer(start: end.memory, count: 64 * 8192))
        memset(end.memory, 0, 64 * 8192)
        #expect(end.post(.IBV_WR_RDMA_READ, id: 1, offset: 0, length: 64 * 8192, remote: remote) == 0)
        #expect(end.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        #expect(Array(UnsafeRawBufferPointer(start: end.memory, count: 64 * 8192)) == sent)
        try end.close()
    }
}
