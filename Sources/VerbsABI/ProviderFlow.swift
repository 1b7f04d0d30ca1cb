// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// A place that carries flow rules out, from the network adapter to user space. In the order in which they are tried.
package enum ProviderFlowPlace: String, Sendable, CaseIterable {
    /// `ibv_create_flow` of a verbs device.
    case verbs
    /// The adapter's filters by ethtool, and AF_XDP on the queue that they steer to.
    case ntuple
    /// An XDP program with rule tables in the driver, and AF_XDP whose memory is the posted receives: in the exclusive mode.
    case xdpDirect = "xdp-direct"
    /// An XDP program with rule tables in the driver, and AF_XDP.
    case xdp
    /// The same above the driver.
    case xdpGeneric = "xdp-generic"
    /// AF_PACKET with a ring, and the classifier in user space.
    case packetRing = "packet-ring"
    /// AF_PACKET with `recvmmsg`, and the classifier in user space.
    case packet
    /// A UDP socket for each rule; the headers are made up.
    case udp

    /// Whether it puts an XDP program on the interface.
    package var hasProgram: Bool { [.ntuple, .xdpDirect, .xdp, .xdpGeneric].contains(self) }
}

/// Who has the traffic of an interface beside the queue pairs.
package enum ProviderFlowMode: String, Sendable, CaseIterable {
    /// Nobody: what no rule matches is dropped.
    case exclusive
    /// The kernel's stack has what no rule matches.
    case singleUser = "single-user"
    /// The kernel's stack and the queue pairs of other processes have what no rule matches.
    case shared
}

/// How a flow is to be carried out.
package struct ProviderFlowOptions: Sendable {
    package var mode: ProviderFlowMode
    /// The places that may be taken.
    package var places: Set<ProviderFlowPlace>
    /// Packets and bytes are to be counted.
    package var counts: Bool
    /// Frames that the kernel has not cut up, or has joined, are delivered as they are.
    package var keepsSuperFrames: Bool

    package init(
        mode: ProviderFlowMode = .singleUser, places: Set<ProviderFlowPlace> = Set(ProviderFlowPlace.allCases),
        counts: Bool = false, keepsSuperFrames: Bool = false
    ) {
        self.mode = mode
        self.places = places
        self.counts = counts
        self.keepsSuperFrames = keepsSuperFrames
    }
}

/// Where a flow is carried out, and why nowhere higher.
package struct ProviderFlowPlacement: Sendable, Equatable {
    /// A higher place that did not do, and why.
    package struct Refusal: Sendable, Equatable {
        package let place: ProviderFlowPlace
        package let reason: String
        /// What is missing is a privilege.
        package let isOfPrivilege: Bool

        package init(place: ProviderFlowPlace, reason: String, isOfPrivilege: Bool = false) {
            self.place = place
            self.reason = reason
            self.isOfPrivilege = isOfPrivilege
        }
    }

    package let place: ProviderFlowPlace
    /// Why the kernel's stack still sees the packets of the flow; `nil` where it does not.
    package let reasonForCopies: String?
    package let refusals: [Refusal]
    /// The path of the socket of the `verbs steerd` that lent the place its socket.
    package let lender: String?

    package init(place: ProviderFlowPlace, reasonForCopies: String?, refusals: [Refusal], lender: String? = nil) {
        self.place = place
        self.reasonForCopies = reasonForCopies
        self.refusals = refusals
        self.lender = lender
    }
}

/// What a flow has counted.
package struct ProviderFlowCounters: Sendable, Equatable {
    package var packets: UInt64 = 0
    package var bytes: UInt64 = 0

    package init() {}
}
