import Foundation
// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

/// Two Ethernet interfaces at the ends of a wire, `w0` and `w1`, in a network namespace that is made for one test and goes with it.
enum VirtualWire {
    /// Namespaces want root, and the interfaces the program `ip`. The software device is at both ends: where the tests are of the
    /// kernel's devices, there is none.
    static let isAvailable = geteuid() == 0 && access("/usr/sbin/ip", X_OK) == 0 && !TestDevice.isRXE

    /// Whether programs can be loaded here: root of a user namespace cannot.
    static let hasXDP: Bool = {
        let isFirst =
            (try? String(contentsOfFile: "/proc/self/uid_map", encoding: .utf8))?.contains("4294967295") ?? false
        return isAvailable && isFirst
    }()

    /// Runs the body in a thread of its own, which alone is in the namespace; its children and threads are, too.
    static func run(_ setUp: [String] = [], _ body: @escaping @Sendable () throws -> Void) throws {
        let work = Work(body: {
            guard enterNamespace(0x4000_0000) == 0 else {
                throw TimeoutError(description: "unshare(CLONE_NEWNET): errno \(errno)")
            }
            // Or the stack has things to say on its own: router solicitations, group memberships.
            try write("1", to: "/proc/sys/net/ipv6/conf/default/disable_ipv6")
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
        // Of any type: one that says that it is recorded already was recorded without a test, in another thread.
        if let error = work.error { throw TimeoutError(description: "in the namespace: \(error)") }
    }

    /// `unshare`, which Swift's Glibc does not show.
    private static let enterNamespace: @convention(c) (Int32) -> Int32 = unsafeBitCast(
        dlsym(UnsafeMutableRawPointer(bitPattern: 0), "unshare"), to: (@convention(c) (Int32) -> Int32).self)

    /// The Ethernet address of an interface of the calling thread's namespace.
    static func hardwareAddress(of interface: String) throws -> [UInt8] {
        // /sys shows the namespace in which it was mounted; the socket's is the thread's.
        let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
        defer { close(descriptor) }
        var request = [UInt8](repeating: 0, count: 40)
        request.replaceSubrange(0..<interface.utf8.count, with: interface.utf8)
        guard ioctl(descriptor, 0x8927, &request) == 0 else {
            throw TimeoutError(description: "SIOCGIFHWADDR: errno \(errno)")
        }
        return Array(request[18..<24])
    }

    /// Takes all capabilities but some from the calling thread, and so from those that it makes.
    ///
    /// - Parameter kept: a bit for each, by its number.
    static func dropCapabilities(but kept: UInt64 = 0) throws {
        typealias Call = @convention(c) (UnsafeMutablePointer<UInt32>, UnsafeMutablePointer<UInt32>) -> Int32
        let call = unsafeBitCast(dlsym(UnsafeMutableRawPointer(bitPattern: 0), "capset"), to: Call.self)
        // _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted and inheritable, twice.
        var header: [UInt32] = [0x2008_0522, 0]
        let low = UInt32(truncatingIfNeeded: kept)
        let high = UInt32(truncatingIfNeeded: kept >> 32)
        var sets: [UInt32] = [low, low, 0, high, high, 0]
        guard call(&header, &sets) == 0 else { throw TimeoutError(description: "capset: errno \(errno)") }
    }

    /// Writes to a file of the kernel, in the namespace of the calling thread.
    static func write(_ text: String, to path: String) throws {
        let file = fopen(path, "w")
        guard let file, fputs(text, file) >= 0, fclose(file) == 0 else {
            throw TimeoutError(description: "\(path): errno \(errno)")
        }
    }

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
