// SPDX-License-Identifier: Apache-2.0
import Glibc
import Synchronization

/// The devices that this process has open, so that a program which exits without closing them still lingers for its
/// peers: the device ends with the process, where a kernel's would go on answering.
enum OpenContexts {
    private static let contexts = Mutex<[ObjectIdentifier: Entry]>([:])

    /// Weak, so that a context that is dropped without `close` can go.
    private struct Entry: @unchecked Sendable {
        // Unchecked: weak references are atomic, and the mutex guards the rest.
        weak var context: SoftContext?
    }

    private static let registration: Void = {
        atexit { OpenContexts.lingerAll() }
    }()

    static func add(_ context: SoftContext) {
        _ = registration
        contexts.withLock { $0[ObjectIdentifier(context)] = Entry(context: context) }
    }

    static func remove(_ context: SoftContext) {
        contexts.withLock { _ = $0.removeValue(forKey: ObjectIdentifier(context)) }
    }

    private static func lingerAll() {
        let open = contexts.withLock { $0.values.compactMap(\.context) }
        for context in open { context.linger() }
    }
}
