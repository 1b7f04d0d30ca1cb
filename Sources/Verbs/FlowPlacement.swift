// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// A place that carries flow rules out. In the order in which they are tried, from the network adapter to user space.
public enum FlowPlace: String, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// `ibv_create_flow` of a verbs device.
    case verbs
    /// The adapter's filters, set by ethtool, lead to a queue that an AF_XDP socket reads.
    case ntuple
    /// An XDP program with rule tables in the driver, and AF_XDP whose memory is the posted receives: the kernel writes each frame
    /// where it was posted, and the library copies nothing. In the exclusive mode, for one queue pair whose receives have one element
    /// each, of at least the longest frame, in one region.
    case xdpDirect = "xdp-direct"
    /// An XDP program with rule tables in the driver, and AF_XDP.
    case xdp
    /// The same above the driver, on any interface.
    case xdpGeneric = "xdp-generic"
    /// AF_PACKET with a ring, and the classifier in user space. Needs CAP_NET_RAW.
    case packetRing = "packet-ring"
    /// AF_PACKET with `recvmmsg`, and the classifier in user space. Needs CAP_NET_RAW.
    case packet
    /// A UDP socket for each rule, of rules that are only addresses and UDP ports. Needs no privilege; the Ethernet and IP headers
    /// are made up.
    case udp

    /// The name, as `VERBS_SOFT_FLOWS` and `verbs steer` take it.
    public var description: String { rawValue }

    var native: ProviderFlowPlace { ProviderFlowPlace(rawValue: rawValue)! }
    init(_ native: ProviderFlowPlace) { self = FlowPlace(rawValue: native.rawValue)! }
}

/// Who has the traffic of an interface beside raw packet queue pairs.
public enum FlowMode: String, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    /// Nobody: what no rule matches is dropped.
    case exclusive
    /// The kernel's stack has what no rule matches.
    case singleUser = "single-user"
    /// The kernel's stack and queue pairs of other processes have what no rule matches.
    case shared

    /// The name, as `verbs steer` takes it.
    public var description: String { rawValue }

    var native: ProviderFlowMode { ProviderFlowMode(rawValue: rawValue)! }
}

/// Where a flow is carried out, and why nowhere higher.
public struct FlowPlacement: Hashable, Sendable {
    /// A higher place that did not do.
    public struct Refusal: Hashable, Sendable, CustomStringConvertible {
        /// The place.
        public let place: FlowPlace
        /// Why, and what would help.
        public let reason: String

        /// `xdp: the driver of lo has no native XDP`
        public var description: String { "\(place): \(reason)" }
    }

    /// The place.
    public let place: FlowPlace
    /// The kernel's stack does not see the packets of the flow. Otherwise it has them as well.
    public var takesFromStack: Bool { reasonForCopies == nil }
    /// Why the kernel's stack has them as well, and what would help; `nil` where it does not.
    public let reasonForCopies: String?
    /// The places above it that were tried, highest first.
    public let refusals: [Refusal]
    /// The path of the Unix socket of the `verbs steerd` that lent this process the socket, without which it could not have the place;
    /// `nil` where the process opened what it uses.
    public let lender: String?

    init(_ native: ProviderFlowPlacement) {
        place = FlowPlace(native.place)
        reasonForCopies = native.reasonForCopies
        lender = native.lender
        refusals = native.refusals.map { Refusal(place: FlowPlace($0.place), reason: $0.reason) }
    }
}

/// What a flow has counted since it was created.
public struct FlowCounters: Hashable, Sendable {
    /// Frames that matched the rule.
    public let packets: UInt64
    /// Their bytes, from the Ethernet header on.
    public let bytes: UInt64
}
