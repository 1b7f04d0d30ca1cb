// SPDX-License-Identifier: Apache-2.0

/// Keeps the address handles of datagrams in flight alive, without counting references at each post.
///
/// A handle remembers which queue pair keeps it; a post compares that, and only a handle that is new here comes to
/// ``keep(_:posted:retired:owner:)``. Handles are kept in two generations: when the younger is full it becomes the older,
/// and the older is let go once everything posted before that turn has completed. So the count stays bounded.
struct HandleKeeper {
    private var younger: [AddressHandle] = []
    private var older: [AddressHandle] = []
    private var turnPosted: UInt32 = 0
    private let generationCount: Int

    init(depth: Int) { generationCount = depth + 64 }

    mutating func keep(
        _ handle: AddressHandle, posted: UInt32, retired: UInt32, owner: UnsafeMutableRawPointer
    ) {
        if younger.count >= generationCount {
            // Signed distance of counters that wrap: all sends before the last turn are done.
            guard older.isEmpty || Int32(bitPattern: retired &- turnPosted) >= 0 else {
                return unsafe add(handle, owner)
            }
            for old in younger { unsafe old.forget(owner) }
            older = younger
            younger = []
            turnPosted = posted
        }
        unsafe add(handle, owner)
    }

    private mutating func add(_ handle: AddressHandle, _ owner: UnsafeMutableRawPointer) {
        younger.append(handle)
        unsafe handle.remember(owner)
    }
}
