// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// Descriptors that came along with a message, in their order. Those that nobody takes are closed.
package final class PassedDescriptors {
    private var numbers: [Int32]

    init(_ numbers: [Int32]) { self.numbers = numbers }

    package var count: Int { numbers.count }

    /// The first that is left, which stays here.
    package var first: Int32? { numbers.first }

    /// The first that is left.
    func takeFile() -> FileDescriptor? {
        numbers.isEmpty ? nil : FileDescriptor(taking: numbers.removeFirst())
    }

    /// The first that is left, as a packet socket.
    package func takePacketSocket() -> UnboundPacketSocket? {
        numbers.isEmpty ? nil : UnboundPacketSocket(taking: numbers.removeFirst())
    }

    deinit { for number in numbers { _ = close(number) } }
}
