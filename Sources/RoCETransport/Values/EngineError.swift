// SPDX-License-Identifier: Apache-2.0

/// Why a control function of the engine refused.
public enum EngineError: Error, Equatable, Sendable {
    /// A limit of ``EngineConfiguration`` is reached; the text names it. (`ENOMEM`)
    case limitReached(StaticString)
    /// An argument is out of range; the text names it. (`EINVAL`)
    case invalidArgument(StaticString)
    /// The object is in use; the text says by what. (`EBUSY`)
    case busy(StaticString)
    /// No such object in this engine. (`EINVAL`)
    case unknownObject

    /// Equal kind and text.
    public static func == (a: EngineError, b: EngineError) -> Bool {
        switch (a, b) {
        case (.limitReached(let x), .limitReached(let y)), (.invalidArgument(let x), .invalidArgument(let y)),
            (.busy(let x), .busy(let y)):
            x.description == y.description
        case (.unknownObject, .unknownObject): true
        default: false
        }
    }
}
