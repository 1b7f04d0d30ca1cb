// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// A trust domain: memory and queue pairs of one protection domain may use each other, those of two may not.
///
/// Any thread may use it. The corresponding C type is `struct ibv_pd`.
@safe public final class ProtectionDomain: @unchecked Sendable {  // Constant; the calls are thread safe.
    /// The device that it was made on.
    public let context: Context

    let native: UnsafeMutablePointer<ibv_pd>

    init(context: Context) throws(VerbsError) {
        self.context = context
        do throws(ProviderError) {
            unsafe native = try context.path.allocateProtectionDomain()
        } catch {
            throw VerbsError(error)
        }
    }

    deinit {
        // Everything made in the domain keeps it alive, so nothing can still use it; a failure has no reader.
        try? unsafe context.path.deallocate(native)
    }
}

extension Context {
    /// Makes a protection domain. The corresponding C function is `ibv_alloc_pd`.
    public func makeProtectionDomain() throws(VerbsError) -> ProtectionDomain {
        try ProtectionDomain(context: self)
    }
}
