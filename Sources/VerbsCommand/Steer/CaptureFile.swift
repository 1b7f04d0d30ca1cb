// SPDX-License-Identifier: Apache-2.0
import Glibc

/// A pcap file of Ethernet frames with nanoseconds, which tcpdump and Wireshark read.
struct CaptureFile: ~Copyable {
    /// The file cannot be made or written.
    struct Failure: Error {
        let path: String
        let code: Int32
    }

    private static let flushByteCount = 262_144
    private static let frameByteCountMax = 262_144

    private let path: String
    private let descriptor: Int32
    private var pending: [UInt8] = []

    /// Makes the file, or empties it.
    init(path: String) throws(Failure) {
        self.path = path
        descriptor = unsafe Glibc.open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw Failure(path: path, code: errno) }
        append(0xA1B2_3C4D)  // magic number: nanoseconds
        append(2 | 4 << 16)  // version 2.4
        append(0)
        append(0)
        append(UInt32(Self.frameByteCountMax))
        append(1)  // LINKTYPE_ETHERNET
    }

    deinit { _ = close(descriptor) }

    /// Adds a frame that came at `nanoseconds` since 1970.
    mutating func add(_ frame: RawSpan, nanoseconds: UInt64) throws(Failure) {
        append(UInt32(truncatingIfNeeded: nanoseconds / 1_000_000_000))
        append(UInt32(nanoseconds % 1_000_000_000))
        append(UInt32(frame.byteCount))
        append(UInt32(frame.byteCount))
        // The frame is borrowed for longer than the call.
        unsafe frame.withUnsafeBytes { unsafe pending.append(contentsOf: $0) }
        if pending.count >= Self.flushByteCount { try flush() }
    }

    /// Writes what was added.
    mutating func flush() throws(Failure) {
        var offset = 0
        while offset < pending.count {
            let written = unsafe pending.withUnsafeBytes {
                unsafe Glibc.write(descriptor, $0.baseAddress! + offset, $0.count - offset)
            }
            if written < 0, errno == EINTR { continue }
            guard written > 0 else { throw Failure(path: path, code: errno) }
            offset += written
        }
        pending.removeAll(keepingCapacity: true)
    }

    private mutating func append(_ value: UInt32) {
        for shift in stride(from: UInt32(0), to: 32, by: 8) {
            pending.append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }
}
