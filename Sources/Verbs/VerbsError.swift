// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// A failed control call: which verb, what about it, the value and the limit, and what to do next.
///
/// The data path does not throw these: a post answers with a ``PostError``, a completion carries a ``WorkStatus``.
@frozen public struct VerbsError: Error, Hashable, Sendable {
    /// What kind of failure it is, for programs; ``remedy`` is for people.
    public enum Cause: Hashable, Sendable {
        /// There is no such device, or no device at all.
        case noDevice
        /// Pinning the memory would pass RLIMIT_MEMLOCK.
        case lockedMemoryLimit
        /// The device has fewer of the thing than was asked for.
        case deviceLimit
        /// The completion queue has no room for the queue that was to be charged against it.
        case completionQueueCapacity
        /// More scatter/gather elements than the queue or the device takes.
        case tooManyElements
        /// The state transition lacks attributes that it needs.
        case missingAttribute
        /// The state transition does not take an attribute, or an attribute has a value it cannot have.
        case invalidAttribute
        /// There is no such transition from the state that the queue pair is in.
        case invalidTransition
        /// Something else still uses the object.
        case busy
        /// The process may not do this.
        case permission
        /// The device, the provider or the kernel does not do this.
        case unsupported
        /// The peer's address cannot be reached from the chosen GID.
        case unreachable
        /// Nobody answered within the time.
        case timedOut
        /// The task that waited was cancelled.
        case cancelled
        /// The peer refused the connection, or nobody listens there: the reason is in ``VerbsError/value``.
        case rejected
        /// Another socket or identifier has the address and port.
        case addressInUse
        /// Memory was short, and it was none of the limits above.
        case outOfMemory
        /// The device or its process is gone.
        case disconnected
        /// The other errors of the system: see ``VerbsError/code``.
        case system
    }

    /// What kind of failure it is.
    public var cause: Cause { details.cause }
    /// The function of libibverbs that does what was asked: `ibv_reg_mr`.
    public var verb: String { details.verb }
    /// The error number the provider left, zero if the library refused by itself.
    public var code: Int32 { details.code }
    /// The attribute or limit that it is about: `RLIMIT_MEMLOCK`, `max_send_wr`, `PATH_MTU`.
    public var subject: String? { details.subject }
    /// What was asked for or given, in words.
    public var value: String? { details.value }
    /// What would have been allowed, in words.
    public var limit: String? { details.limit }
    /// What to do next.
    public var remedy: String { details.remedy }

    /// An error of all its members.
    public init(
        _ cause: Cause, verb: String, code: Int32 = 0, subject: String? = nil, value: String? = nil,
        limit: String? = nil, remedy: String
    ) {
        details = Details(
            cause: cause, verb: verb, code: code, subject: subject, value: value, limit: limit, remedy: remedy)
    }

    /// One word: an error of several would cost registers at each poll, which may throw it.
    @usableFromInline let details: Details

    @usableFromInline final class Details: Sendable {
        let cause: Cause
        let verb: String
        let code: Int32
        let subject: String?
        let value: String?
        let limit: String?
        let remedy: String

        init(
            cause: Cause, verb: String, code: Int32, subject: String?, value: String?, limit: String?, remedy: String
        ) {
            self.cause = cause
            self.verb = verb
            self.code = code
            self.subject = subject
            self.value = value
            self.limit = limit
            self.remedy = remedy
        }
    }
}

extension VerbsError {
    /// Errors are equal that say the same.
    public static func == (a: VerbsError, b: VerbsError) -> Bool {
        a.cause == b.cause && a.code == b.code && a.texts == b.texts
    }

    /// Hashes what the error says.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(cause)
        hasher.combine(code)
        hasher.combine(texts)
    }

    private var texts: [String?] { [verb, subject, value, limit, remedy] }
}

extension VerbsError: CustomStringConvertible {
    /// `ibv_reg_mr: RLIMIT_MEMLOCK: asked 1 MiB, limit 64 KiB (ENOMEM). Raise it with …`
    public var description: String {
        var text = verb
        if let subject { text += ": \(subject)" }
        if let value { text += ": asked \(value)" }
        if let limit { text += value == nil ? ": limit \(limit)" : ", limit \(limit)" }
        if subject == nil && value == nil && limit == nil && code == 0 { text += ": \(cause)" }
        if code != 0 { text += " (\(ErrorNumber.name(code)): \(ErrorNumber.message(code)))" }
        return remedy.isEmpty ? text : "\(text). \(remedy)"
    }
}

/// `errno` in words.
enum ErrorNumber {
    static func name(_ code: Int32) -> String {
        names[code] ?? "errno \(code)"
    }

    static func message(_ code: Int32) -> String {
        // strerror_r in its GNU form may return a pointer into the buffer or to a constant: copied at once.
        unsafe String(cString: strerror(code))
    }

    private static let names: [Int32: String] = [
        EPERM: "EPERM", ENOENT: "ENOENT", EINTR: "EINTR", EIO: "EIO", EAGAIN: "EAGAIN", ENOMEM: "ENOMEM",
        EACCES: "EACCES", EFAULT: "EFAULT", EBUSY: "EBUSY", EEXIST: "EEXIST", ENODEV: "ENODEV", EINVAL: "EINVAL",
        EMFILE: "EMFILE", ENFILE: "ENFILE", ENOSPC: "ENOSPC", ENOSYS: "ENOSYS", EOPNOTSUPP: "EOPNOTSUPP",
        ETIMEDOUT: "ETIMEDOUT", ENETUNREACH: "ENETUNREACH", EHOSTUNREACH: "EHOSTUNREACH",
        EADDRINUSE: "EADDRINUSE", ECONNREFUSED: "ECONNREFUSED", ENODATA: "ENODATA", EADDRNOTAVAIL: "EADDRNOTAVAIL",
        EPROTONOSUPPORT: "EPROTONOSUPPORT",
    ]
}

extension VerbsError {
    /// A failed call of a provider that nothing more is known about than its error number and detail.
    init(_ error: ProviderError, verb: String? = nil) {
        let (cause, remedy) = Self.general(error.code)
        self.init(
            cause, verb: verb ?? error.function.description, code: error.code, subject: error.detail, remedy: remedy)
    }

    private static func general(_ code: Int32) -> (Cause, String) {
        switch code {
        case ENOMEM:
            (.outOfMemory, "The kernel or the device is out of memory or of objects of this kind; free some.")
        case EBUSY: (.busy, "Release first what still uses it.")
        case EPERM, EACCES:
            (.permission, "Check the permissions of /dev/infiniband/uverbs* and the capabilities of the process.")
        case ENOSYS, EOPNOTSUPP, EPROTONOSUPPORT:
            (.unsupported, "The device does not do this; `verbs info -v` lists what it does.")
        case ENODEV, EIO: (.disconnected, "The device is gone or has failed; open it again.")
        case ETIMEDOUT, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL:
            (.unreachable, "Check the GID index and the route to the peer's address: `verbs info` lists both.")
        default: (.system, "")
        }
    }
}
