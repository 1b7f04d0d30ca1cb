// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A short file of text, read and written as a whole.
package enum TextFile {
    /// Everything in it; `nil` where there is no such file.
    package static func read(_ path: String) throws(PacketIOError) -> String? {
        guard let file = unsafe fopen(path, "re") else {
            if clinuxnet_errno() == ENOENT { return nil }
            throw SystemError.last("open(\(path))")
        }
        defer { unsafe _ = fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 16_384)
        while true {
            let count = unsafe fread(&chunk, 1, chunk.count, file)
            if count == 0 { break }
            bytes += chunk[..<count]
        }
        guard unsafe ferror(file) == 0 else { throw SystemError.last("read(\(path))") }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Puts another text in its place: whoever reads has the old or the new one, also if this process dies within the call.
    package static func replace(_ path: String, with text: String) throws(PacketIOError) {
        let next = path + ".new"
        // Left by one that died.
        unsafe _ = unlink(next)
        guard let file = unsafe fopen(next, "wxe") else { throw SystemError.last("open(\(next))") }
        let bytes = Array(text.utf8)
        let isWritten = unsafe fwrite(bytes, 1, bytes.count, file) == bytes.count
        guard unsafe fclose(file) == 0, isWritten else {
            let error = SystemError.last("write(\(next))")
            unsafe _ = unlink(next)
            throw error
        }
        guard unsafe rename(next, path) == 0 else {
            let error = SystemError.last("rename(\(next))")
            unsafe _ = unlink(next)
            throw error
        }
    }
}
