// SPDX-License-Identifier: Apache-2.0
import Foundation
import Glibc
import VerbsPerf

/// The other end of a TCP connection, played from a recording on a thread of its own. Like perftest it reads each
/// message with one `read` and takes a short one for an error.
final class ScriptedPeer: @unchecked Sendable {
    enum Act {
        /// One `read` that must return exactly these bytes.
        case expect([UInt8])
        case send([UInt8])
        /// One `write` a byte.
        case sendSplit([UInt8])
        case close
        case sleep(milliseconds: UInt32)
    }

    private let descriptor: Int32
    private let acts: [Act]
    // Written by the thread before it signals, read after the wait.
    private var failure: String?
    private let done = DispatchSemaphore(value: 0)

    /// Makes a connected pair; the second element is for the connection under test.
    static func pair(_ acts: [Act]) -> (peer: ScriptedPeer, descriptor: Int32) {
        var descriptors: [Int32] = [0, 0]
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
                precondition(bind(listener, name, length) == 0 && listen(listener, 1) == 0)
                precondition(getsockname(listener, name, &length) == 0)
                descriptors[0] = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
                precondition(connect(descriptors[0], name, length) == 0)
            }
        }
        descriptors[1] = accept(listener, nil, nil)
        Glibc.close(listener)
        var on: Int32 = 1
        setsockopt(descriptors[1], Int32(IPPROTO_TCP), TCP_NODELAY, &on, 4)
        return (ScriptedPeer(descriptors[1], acts), descriptors[0])
    }

    private init(_ descriptor: Int32, _ acts: [Act]) {
        self.descriptor = descriptor
        self.acts = acts
        Thread { [self] in
            play()
            Glibc.close(descriptor)
            done.signal()
        }.start()
    }

    /// What went wrong on its side, once it has finished; waits at most ten seconds.
    func result() -> String? {
        done.wait(timeout: .now() + 10) == .success ? failure : "the scripted peer did not finish"
    }

    private func play() {
        for (index, act) in acts.enumerated() {
            switch act {
            case .expect(let bytes):
                var buffer = [UInt8](repeating: 0, count: bytes.count)
                let count = read(descriptor, &buffer, buffer.count)
                if count != bytes.count { return failure = "act \(index): read \(count) of \(bytes.count) bytes" }
                if buffer != bytes { return failure = "act \(index): got \(buffer), expected \(bytes)" }
            case .send(let bytes):
                _ = write(descriptor, bytes, bytes.count)
            case .sendSplit(let bytes):
                for byte in bytes {
                    _ = write(descriptor, [byte], 1)
                    usleep(100)
                }
            case .close: return
            case .sleep(let milliseconds): usleep(milliseconds * 1000)
            }
        }
    }
}
