// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Owns a file descriptor and closes it.
struct FileDescriptor: ~Copyable {
    let number: Int32

    /// Takes ownership; throws the error of `call` where the number is that of a failed call.
    init(_ number: Int32, call: String) throws(PacketIOError) {
        guard number >= 0 else { throw SystemError.last(call) }
        self.number = number
    }

    /// Takes ownership of one that is open.
    init(taking number: Int32) { self.number = number }

    deinit { _ = close(number) }
}
