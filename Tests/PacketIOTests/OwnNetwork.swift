// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import Testing

@testable import PacketIO

/// Runs the body on a thread with a network namespace of its own, gone when the thread ends. Its loopback is up, and
/// takes bursts of `segmentsMax` segments; longer ones the kernel cuts up before.
///
/// Expectations belong outside: the body is not on the test's own thread.
func inOwnNetwork<Value>(segmentsMax: Int = 64, _ body: @escaping () throws -> Value) throws -> Value {
    let job = NetworkJob(segmentsMax: segmentsMax, body)
    var thread = pthread_t()
    let started = pthread_create(
        &thread, nil,
        { argument in
            Unmanaged<NetworkJob>.fromOpaque(argument!).takeUnretainedValue().run()
            return nil
        }, Unmanaged.passUnretained(job).toOpaque())
    try #require(started == 0)
    pthread_join(thread, nil)
    return try #require(try job.result?.get() as? Value)
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
            // Not in Swift's Glibc module.
            typealias Unshare = @convention(c) (Int32) -> Int32
            let unshare = unsafeBitCast(dlsym(nil, "unshare")!, to: Unshare.self)
            guard unshare(0x4000_0000) == 0 else { throw SystemError.last("unshare(CLONE_NEWNET)") }
            var child: pid_t = 0
            let words = ["ip", "link", "set", "lo", "up", "gso_max_segs", String(segmentsMax)]
            var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
            defer { arguments.forEach { free($0) } }
            var status: Int32 = -1
            guard spawning.withLock({ _ in posix_spawnp(&child, "ip", nil, nil, &arguments, environ) }) == 0,
                waitpid(child, &status, 0) == child, status == 0
            else { throw PacketIOError.invalid("ip link set lo: status \(status)") }
            return try body()
        }
    }
}
