// SPDX-License-Identifier: Apache-2.0
import Dispatch

/// Calls a function whenever a descriptor is readable.
final class ReadableSource: @unchecked Sendable {  // Dispatch sources may be used from any thread.
    private let source: any DispatchSourceRead

    init(descriptor: Int32, _ body: @escaping @Sendable () -> Void) {
        source = DispatchSource.makeReadSource(fileDescriptor: descriptor, queue: .global())
        source.setEventHandler(handler: body)
        source.activate()
    }

    func cancel() { source.cancel() }
}
