// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import Synchronization

/// What could not be set up for a test, and why.
package struct NetworkError: Error {
    package let description: String

    init(_ description: String) { self.description = description }

    static func last(_ call: String) -> NetworkError {
        NetworkError("\(call): \(String(cString: strerror(clinuxnet_errno())))")
    }
}

/// What this process may do, for tests that need a privilege; a skipped test says which.
package enum Privilege {
    /// Own network namespaces (CAP_SYS_ADMIN) and capturing in them (CAP_NET_RAW), and iproute2 to set them up.
    package static let networkNamespaces: Bool = geteuid() == 0 && access("/usr/sbin/ip", X_OK) == 0
    /// Taking another user's identity (CAP_SETUID).
    package static let otherUsers: Bool = geteuid() == 0
}

/// Held while a process is started and while a link dies: between fork and exec the child has copies of all sockets, and
/// one of a dead link would still be sent to.
package let spawning = Mutex<Void>(())

/// Runs the body on a thread with a network namespace of its own, gone when the thread ends. Its loopback is up, and
/// takes bursts of `segmentsMax` segments; longer ones the kernel cuts up before.
///
/// Expectations belong outside: the body is not on the test's own thread.
package func inOwnNetwork<Value>(segmentsMax: Int = 64, _ body: @escaping () throws -> Value) throws -> Value {
    let job = NetworkJob(segmentsMax: segmentsMax, body)
    var thread = pthread_t()
    let started = pthread_create(
        &thread, nil,
        { argument in
            Unmanaged<NetworkJob>.fromOpaque(argument!).takeUnretainedValue().run()
            return nil
        }, Unmanaged.passUnretained(job).toOpaque())
    guard started == 0 else { throw NetworkError("pthread_create: \(started)") }
    pthread_join(thread, nil)
    guard let value = try job.result?.get() as? Value else { throw NetworkError("the body gave nothing") }
    return value
}

private final class NetworkJob {
    private let body: () throws -> Any
    private(set) var result: Result<Any, any Error>?

    private let segmentsMax: Int

    init(segmentsMax: Int, _ body: @escaping () throws -> Any) {
        self.segmentsMax = segmentsMax
        self.body = body
    }

    func run() {
        result = Result {
            guard unshareNetwork() else { throw NetworkError.last("unshare(CLONE_NEWNET)") }
            var child: pid_t = 0
            let words = ["ip", "link", "set", "lo", "up", "gso_max_segs", String(segmentsMax)]
            var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
            defer { arguments.forEach { free($0) } }
            var status: Int32 = -1
            guard spawning.withLock({ _ in posix_spawnp(&child, "ip", nil, nil, &arguments, environ) }) == 0,
                waitpid(child, &status, 0) == child, status == 0
            else { throw NetworkError("ip link set lo: status \(status)") }
            return try body()
        }
    }
}

/// Gives the calling thread a network namespace of its own. Not in Swift's Glibc module.
func unshareNetwork() -> Bool {
    typealias Unshare = @convention(c) (Int32) -> Int32
    return unsafeBitCast(dlsym(nil, "unshare")!, to: Unshare.self)(0x4000_0000) == 0
}
