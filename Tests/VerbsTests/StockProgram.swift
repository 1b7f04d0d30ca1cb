// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

/// A program of rdma-core that runs beside the test, and ends with it at the latest. It runs on the device of the test, or,
/// if `VERBS_TEST_PEER` has the addresses of another, in the first network namespace, where that device is.
final class StockProgram {
    private static let folder = "/usr/bin/"
    private var identifier: pid_t = 0
    private let log: String

    static let peers: [GID]? = getenv("VERBS_TEST_PEER").map {
        String(cString: $0).split(separator: ",").compactMap { GID(String($0)) }
    }

    static var canRun: Bool {
        (TestDevice.isRXE || peers != nil)
            && ["rping", "ucmatose", "mckey"].allSatisfy { access(folder + $0, X_OK) == 0 }
    }

    init(_ name: String, _ arguments: [String]) throws {
        log = "/tmp/\(name).\(getpid()).\(UInt32.random(in: 0 ... .max))"
        let elsewhere = Self.peers == nil ? [] : ["nsenter", "-t", "1", "-n"]
        let command = elsewhere + [Self.folder + name] + arguments
        var vector: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) }
        vector.append(nil)
        defer { vector.forEach { free($0) } }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        let status = posix_spawnp(&identifier, command[0], &actions, nil, vector, environ)
        if status != 0 {
            throw TimeoutError(description: "\(name) does not start: \(String(cString: strerror(status)))")
        }
    }

    deinit {
        unlink(log)
        guard identifier > 0 else { return }
        kill(identifier, SIGKILL)
        waitpid(identifier, nil, 0)
    }

    /// What it has printed.
    var output: String {
        guard let file = fopen(log, "r") else { return "" }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }

    /// Whether it has not ended yet.
    var isRunning: Bool {
        var information = siginfo_t()
        // Leaves it to be waited for.
        return waitid(P_PID, id_t(identifier), &information, WEXITED | WNOHANG | WNOWAIT) == 0
            && information._sifields._sigchld.si_pid == 0
    }

    /// The exit status; -1 if a signal ended it.
    func wait() throws -> Int32 {
        let end = ContinuousClock.now + TestDevice.patience
        while ContinuousClock.now < end {
            var status: Int32 = 0
            if waitpid(identifier, &status, WNOHANG) == identifier {
                identifier = 0
                return status & 0x7F == 0 ? status >> 8 & 0xFF : -1
            }
            usleep(10_000)
        }
        throw TimeoutError(description: "the program does not end; it said: \(output)")
    }

    /// Waits until it ends, which must be well.
    func finish() throws {
        let status = try wait()
        if status != 0 { throw TimeoutError(description: "the program ended with \(status); it said: \(output)") }
    }
}

/// The two families of addresses.
enum AddressFamily: String, Sendable {
    case ipv4 = "IPv4"
    case ipv6 = "IPv6"

    /// The families that tests of programs run with: both with INTEROP_MATRIX=full, else IPv4 where this end connects and
    /// IPv6 where it listens, so that each is there and nothing runs twice.
    static func tested(_ role: InteropTable.Role) -> [AddressFamily] {
        if InteropTable.isFull { return [.ipv4, .ipv6] }
        return role == .client ? [.ipv4] : [.ipv6]
    }

    private func isMine(_ address: GID) -> Bool { address.isIPv4Mapped == (self == .ipv4) }

    /// Our address.
    func own(port: UInt16 = 0) throws -> SocketAddress {
        let address = self == .ipv4 ? try TestDevice.address() : try #require(TestDevice.addressIPv6)
        return SocketAddress(address.address, port: port)
    }

    /// The address of the programs.
    func peer(port: UInt16 = 0) throws -> SocketAddress {
        guard let peers = StockProgram.peers else { return try own(port: port) }
        return SocketAddress(try #require(peers.first(where: isMine)), port: port)
    }
}

extension SocketAddress {
    /// Without the port, as a program takes it.
    var host: String { address.isIPv4Mapped ? String(description.prefix { $0 != ":" }) : "\(address)" }
}

/// The lines that Tests/Tools/interop-table makes a table of, in the file that `VERBS_INTEROP_TABLE` names.
enum InteropTable {
    /// Whether everything is to be run, and not what fits into the time of each change's tests.
    static let isFull = getenv("INTEROP_MATRIX").map { String(cString: $0) } == "full"

    /// Which end this one is.
    enum Role: String { case client, server }

    /// A run with a program; what it comes to is written down. `result` is what it comes to if `body` does not throw.
    static func cell(
        _ program: String, _ role: Role, _ family: AddressFamily, transport: String = "RC", size: Int? = nil,
        queuePairs: Int = 1, result: String = "ok", _ body: () throws -> Void
    ) throws {
        func write(_ result: String) {
            guard let path = getenv("VERBS_INTEROP_TABLE"), let file = fopen(path, "a") else { return }
            let values = [
                program, role.rawValue, transport, "yes", family.rawValue, size.map(String.init) ?? "none",
                String(queuePairs), kernelRelease, result,
            ]
            fputs(values.joined(separator: "\t") + "\n", file)
            fclose(file)
        }
        do {
            try body()
        } catch {
            write("FAILED")
            throw error
        }
        write(result)
    }
}

/// What `uname -r` prints.
let kernelRelease: String = {
    var names = utsname()
    uname(&names)
    return withUnsafeBytes(of: names.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}()
