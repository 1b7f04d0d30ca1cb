// SPDX-License-Identifier: Apache-2.0
import Glibc

/// Why a library of rdma-core is not there.
struct LoadError: Error, CustomStringConvertible {
    let description: String
}

/// The functions of a shared library, by name. It is never unloaded, so the pointers stay good.
@safe struct LibrarySymbols {
    private let handle: UnsafeMutableRawPointer
    private let name: String
    private let oldest: String

    /// Loads a library. `oldest` is the release that has all required functions, `packages` are Debian's.
    init(of name: String, oldest: String, packages: String) throws(LoadError) {
        guard let handle = unsafe dlopen(name, RTLD_NOW | RTLD_LOCAL) else {
            let reason = unsafe dlerror().map { unsafe String(cString: $0) } ?? name
            let library = name.prefix { $0 != "." }
            throw LoadError(description: "\(library) is not installed (\(reason)); on Debian: apt install \(packages)")
        }
        unsafe self.handle = handle
        self.name = name
        self.oldest = oldest
    }

    /// A function that may be missing. `dlsym` returns the default version of a name, which is what linking takes.
    func optional<F>(_ function: String, as type: F.Type = F.self) -> F? {
        // F is a C function pointer, as large as any pointer; its type is what the library's header declares.
        unsafe dlsym(handle, function).map { unsafe unsafeBitCast($0, to: F.self) }
    }

    func required<F>(_ function: String, as type: F.Type = F.self) throws(LoadError) -> F {
        guard let found = optional(function, as: F.self) else {
            throw LoadError(description: "\(name) has no \(function): it is older than \(oldest)")
        }
        return found
    }
}
