// SPDX-License-Identifier: Apache-2.0
import Verbs

/// What a raw packet test came to, for machines.
package struct RawResult: Sendable, Encodable {
    /// A place above the one that was taken, and why it did not do.
    package struct Refusal: Sendable, Encodable {
        package var place: String
        package var reason: String
    }

    /// Rates of the flow rate test.
    package struct FlowRates: Sendable, Encodable {
        package var rules: Int
        /// In a second.
        package var attached: Double
        package var detached: Double
        /// Of the classifier in user space, in a second, with all rules in it.
        package var lookups: Double
    }

    package var test: RawTest
    package var role: String
    package var device: String
    package var interface: String
    /// Where the flow rules of this end are carried out; `nil` without any.
    package var place: String?
    package var takesFromStack: Bool?
    package var refusals: [Refusal] = []
    package var queuePairs: Int
    /// `MB/sec` (2^20 bytes), `Gb/sec` (10^9 bits) or `usec`.
    package var unit: String
    /// Rows of frames that were sent (client) or delivered (server).
    package var bandwidth: [BandwidthReport] = []
    package var latency: [LatencySummary] = []
    package var flowRates: FlowRates?
    /// Frames that one end sent and the other did not get.
    package var lost = 0
    /// What the device of this end says that it dropped.
    package var losses: [String: Int] = [:]

    init(_ options: RawOptions, role: String, device: String, interface: String) {
        test = options.test
        self.role = role
        self.device = device
        self.interface = interface
        queuePairs = options.queuePairs
        unit = options.test == .latency ? "usec" : options.reportGigabits ? "Gb/sec" : "MB/sec"
    }

    mutating func note(_ placement: FlowPlacement?) {
        place = placement?.place.rawValue
        takesFromStack = placement?.takesFromStack
        refusals = placement?.refusals.map { Refusal(place: $0.place.rawValue, reason: $0.reason) } ?? []
    }

    /// Holds the rows against the user's limits.
    package func check(bandwidthLimit: Double?, messageRateLimit: Double?) throws(PerfError) {
        for row in bandwidth {
            if let limit = bandwidthLimit, row.average < limit {
                throw .belowLimit("The average bandwidth \(row.average) \(unit) is below the limit \(limit) (-w).")
            }
            if let limit = messageRateLimit, row.messageRate < limit {
                throw .belowLimit("The frame rate \(row.messageRate) Mpps is below the limit \(limit) (-y).")
            }
        }
    }
}
