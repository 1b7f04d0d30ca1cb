// SPDX-License-Identifier: Apache-2.0
import Glibc

/// The two lines of /proc/self/status that decide whether memory may be pinned.
struct ProcessStatus: Equatable {
    /// `VmPin`: what device drivers hold pinned for this process.
    var pinnedBytes: UInt64 = 0
    /// `CapEff` as a bit set; bit 14 is CAP_IPC_LOCK.
    var effectiveCapabilities: UInt64 = 0

    /// Reads the text of the file; lines that are not there count as zero.
    init(parsing text: String) {
        for line in text.split(separator: "\n") {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            guard words.count >= 2 else { continue }
            switch words[0] {
            case "VmPin:": pinnedBytes = (UInt64(words[1]) ?? 0) * 1024
            case "CapEff:": effectiveCapabilities = UInt64(words[1], radix: 16) ?? 0
            default: break
            }
        }
    }

    static func current() -> ProcessStatus {
        let descriptor = unsafe open("/proc/self/status", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return ProcessStatus(parsing: "") }
        defer { close(descriptor) }
        var text = [UInt8](repeating: 0, count: 16 << 10)
        // The array outlives the call; the count is its own.
        let count = unsafe read(descriptor, &text, text.count)
        return ProcessStatus(parsing: String(decoding: text.prefix(max(0, count)), as: UTF8.self))
    }
}
