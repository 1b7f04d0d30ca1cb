// SPDX-License-Identifier: Apache-2.0

/// What may happen to a frame between the device and the wire, and how often. All probabilities are per frame.
package struct FaultPlan: Sendable, Equatable {
    package var drop = 0.0
    package var duplicate = 0.0
    /// Held back until up to four later frames have passed it.
    package var reorder = 0.0
    /// One bit of the UDP payload is turned over.
    package var corrupt = 0.0
    /// Held back for ``delayNanoseconds``.
    package var delay = 0.0
    package var delayNanoseconds: UInt64 = 1_000_000
    package var seed: UInt64 = 1

    package init() {}

    /// Reads the form of the environment variable `VERBS_SOFT_FAULTS`:
    /// `drop=0.1,duplicate=0.1,reorder=0.1,corrupt=0.01,delay=0.1,delay_us=500,seed=7`.
    ///
    /// - Throws: `PacketIOError.invalid` with the item that is not understood.
    package init(parsing text: String) throws(PacketIOError) {
        for item in text.split(separator: ",") {
            let parts = item.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw .invalid("fault '\(item)' is not of the form name=value") }
            switch parts[0] {
            case "drop": drop = try Self.probability(parts)
            case "duplicate": duplicate = try Self.probability(parts)
            case "reorder": reorder = try Self.probability(parts)
            case "corrupt": corrupt = try Self.probability(parts)
            case "delay": delay = try Self.probability(parts)
            case "delay_us":
                guard let value = UInt64(parts[1]), value <= 60_000_000 else {
                    throw .invalid("fault 'delay_us=\(parts[1])' is not a number of microseconds of at most a minute")
                }
                delayNanoseconds = value * 1000
            case "seed":
                guard let value = UInt64(parts[1]) else { throw .invalid("fault 'seed=\(parts[1])' is not a number") }
                seed = value
            default:
                throw .invalid(
                    "fault '\(parts[0])' is not one of drop, duplicate, reorder, corrupt, delay, delay_us, seed")
            }
        }
    }

    private static func probability(_ parts: [String]) throws(PacketIOError) -> Double {
        guard let value = Double(parts[1]), value >= 0, value <= 1 else {
            throw .invalid("fault '\(parts[0])=\(parts[1])' is not a probability between 0 and 1")
        }
        return value
    }
}
