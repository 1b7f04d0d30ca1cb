// SPDX-License-Identifier: Apache-2.0

/// Copies that find out whether memory is there, where the engine's own would end the process: what it reaches the whole address
/// space by, in which any page may be missing or protected. The engine makes no system calls, so its owner brings them.
@safe public struct CheckedMemory: Sendable {
    // Buffers of the engine's, each for the time of a call.
    /// Copies from an address of the application. `false` if any of the bytes cannot be read.
    public let read: @Sendable (_ address: UInt64, _ target: UnsafeMutableRawBufferPointer) -> Bool
    /// Copies to an address of the application. `false` if any of the bytes cannot be written.
    public let write: @Sendable (_ address: UInt64, _ source: UnsafeRawBufferPointer) -> Bool

    /// The two directions.
    public init(
        read: @escaping @Sendable (_ address: UInt64, _ target: UnsafeMutableRawBufferPointer) -> Bool,
        write: @escaping @Sendable (_ address: UInt64, _ source: UnsafeRawBufferPointer) -> Bool
    ) {
        unsafe self.read = unsafe read
        unsafe self.write = unsafe write
    }
}
