// SPDX-License-Identifier: Apache-2.0
import Verbs

/// A measurement of raw packets: of frames, and of the rules that steer them.
package enum RawTest: String, CaseIterable, Sendable, Codable {
    /// As perftest's raw_ethernet_bw.
    case bandwidth = "raw-bw"
    /// As perftest's raw_ethernet_lat.
    case latency = "raw-lat"
    /// As perftest's raw_ethernet_fs_rate, and lookups of the classifier in user space.
    case flowRate = "fs-rate"
}

/// What the user asked for; `nil` is "not given".
package struct RawOptions: Equatable, Sendable {
    /// Ethernet header, IPv4 and UDP header; perftest has the same least size with Ethernet's least frame.
    package static let sizes = 64...65_000
    /// Ethernet header and VLAN tag.
    static let headerByteCount = 18

    package var test: RawTest
    /// The server's host name or address.
    package var host: String?
    package var device: String?
    package var devicePort = 1
    /// Bytes of a frame, without the check sequence.
    package var size: Int?
    package var allSizes = false
    /// Frames for each queue pair, or rules.
    package var iterations: Int?
    package var durationSeconds: Int?
    package var queuePairs = 1
    package var transmitDepth: Int?
    package var receiveDepth: Int?
    package var reportGigabits = false
    package var stallSeconds = 60
    /// Where frames go, if the peer does not tell.
    package var destinationMAC: UInt64?
    /// The IPv4 address in the frames, if the peer does not tell.
    package var destinationAddress: UInt32?
    /// UDP port of the first queue pair; the others have those behind it.
    package var destinationPort = 7000
    /// Without a peer: receives from whoever sends.
    package var isServerAlone = false
    /// Without a peer: sends to whoever is there.
    package var isClientAlone = false
    /// In place of the rule that is made of address and port.
    package var rule: FlowRule?
    package var mode = FlowMode.singleUser
    package var places = Set(FlowPlace.allCases)
    /// Rule sets of the flow rate test.
    package var ruleSet = RuleSetKind.acl

    package init(test: RawTest) { self.test = test }

    package var isAlone: Bool { isServerAlone || isClientAlone }

    /// Judges the options.
    package func validated() throws(PerfError) {
        func check(_ name: String, _ value: Int?, _ range: ClosedRange<Int>) throws(PerfError) {
            guard let value, !range.contains(value) else { return }
            throw .usage("\(name) \(value): must be \(range.lowerBound)...\(range.upperBound).")
        }
        try check("-s", size, Self.sizes)
        try check("-n", iterations, test == .flowRate ? 1...1_000_000 : PerfPlan.Limit.iterations)
        try check("-D", durationSeconds, 1...86_400)
        try check("-q", queuePairs, 1...256)
        try check("-t", transmitDepth, PerfPlan.Limit.transmitDepth)
        try check("-r", receiveDepth, PerfPlan.Limit.receiveDepth)
        try check("--dest_port", destinationPort, 1...65_535 - 256)
        if test == .latency, queuePairs > 1 { throw .usage("-q: raw-lat has one queue pair.") }
        if test == .latency, isAlone {
            throw .usage("raw-lat needs a peer that answers: leave out --server and --client.")
        }
        if isServerAlone, isClientAlone { throw .usage("--server and --client: one end is one of them.") }
        if isAlone, host != nil {
            throw .usage("--server and --client have no peer to connect to: leave the host out.")
        }
        if isAlone, allSizes { throw .usage("-a needs a peer that follows: give -s with --server and --client.") }
        if isClientAlone, destinationMAC == nil {
            throw .usage("--client needs --dest_mac: nobody else tells where the frames shall go.")
        }
        if rule != nil, queuePairs > 1 {
            throw .usage("--rule: with several queue pairs each has the rule of its port.")
        }
    }

    /// The sizes that an interface takes, in increasing order.
    func sizes(mtu: Int) throws(PerfError) -> [Int] {
        let largest = mtu + 14
        if allSizes { return (6...16).map { 1 << $0 }.filter { $0 < largest } + [largest] }
        let size = size ?? (test == .latency ? 64 : min(1500, largest))
        guard size <= largest else {
            throw .usage("-s \(size): the interface takes frames of up to \(largest) bytes (MTU \(mtu)).")
        }
        return [size]
    }
}
