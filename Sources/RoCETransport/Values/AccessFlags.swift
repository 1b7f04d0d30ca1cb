// SPDX-License-Identifier: Apache-2.0

/// What a memory region, a window or a queue pair lets be done; the bits of `enum ibv_access_flags`.
public struct AccessFlags: OptionSet, Sendable, BitwiseCopyable, Hashable {
    /// As the C enumeration has it.
    public let rawValue: UInt32
    /// A value from its number.
    @inlinable public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// `IBV_ACCESS_LOCAL_WRITE`
    public static var localWrite: Self { Self(rawValue: 1) }
    /// `IBV_ACCESS_REMOTE_WRITE`
    public static var remoteWrite: Self { Self(rawValue: 1 << 1) }
    /// `IBV_ACCESS_REMOTE_READ`
    public static var remoteRead: Self { Self(rawValue: 1 << 2) }
    /// `IBV_ACCESS_REMOTE_ATOMIC`
    public static var remoteAtomic: Self { Self(rawValue: 1 << 3) }
    /// `IBV_ACCESS_MW_BIND`
    public static var windowBind: Self { Self(rawValue: 1 << 4) }
    /// `IBV_ACCESS_ZERO_BASED`
    public static var zeroBased: Self { Self(rawValue: 1 << 5) }
    /// `IBV_ACCESS_FLUSH_GLOBAL`
    public static var flushGlobal: Self { Self(rawValue: 1 << 8) }
    /// `IBV_ACCESS_FLUSH_PERSISTENT`: for memory that survives a loss of power from when processors see it. The engine
    /// cannot tell whether it does; who registers it answers for that.
    public static var flushPersistent: Self { Self(rawValue: 1 << 9) }
}
