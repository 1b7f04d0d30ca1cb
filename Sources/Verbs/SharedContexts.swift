// SPDX-License-Identifier: Apache-2.0
import Synchronization
import VerbsABI

/// The contexts of devices that a connection manager opened: one for each device, as long as anybody has it, so that all
/// connections of a device can share protection domains.
enum SharedContexts {
    private struct Entry {
        weak var context: Context?
    }

    /// By the identity of the control path. A context keeps its path, so a key whose context lives is not used again.
    private static let entries = Mutex<[ObjectIdentifier: Entry]>([:])

    static func context(_ device: Device, _ path: any ControlPath) -> Context {
        entries.withLock { entries in
            if let known = entries[ObjectIdentifier(path)]?.context { return known }
            // It fails only where no memory is left at all.
            let bufferGuard = BufferGuard.isAskedFor ? try? BufferGuard() : nil
            let context = Context(device: device, path: path, closesPath: false, bufferGuard: bufferGuard)
            entries = entries.filter { $0.value.context != nil }
            entries[ObjectIdentifier(path)] = Entry(context: context)
            return context
        }
    }
}
