// SPDX-License-Identifier: Apache-2.0
import Dispatch

/// Calls a function whenever a descriptor is readable, until the function says no, or ``cancel()``.
///
/// What the function holds is let go once no call of it can begin any more; so it may own the descriptor.
final class ReadableSource: @unchecked Sendable {  // Dispatch sources may be used from any thread.
    private let source: any DispatchSourceRead

    init(descriptor: Int32, _ body: @escaping @Sendable () -> Bool) {
        source = DispatchSource.makeReadSource(fileDescriptor: descriptor, queue: .global())
        source.setEventHandler { @Sendable [weak self] in if !body() { self?.cancel() } }
        source.activate()
    }

    func cancel() { source.cancel() }
}
