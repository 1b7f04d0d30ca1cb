// SPDX-License-Identifier: Apache-2.0

/// What packets go by. A higher one is beside the UDP sockets, which stay open for what it leaves to them.
package enum LinkKind: String, Sendable {
    /// UDP sockets alone.
    case udp
    /// Whole frames by AF_PACKET.
    case packet
    /// Whole frames by AF_XDP.
    case xdp
}

/// What was asked for.
package enum LinkPreference: String, Sendable, CaseIterable {
    /// The fastest that can be had, as far as it was measured.
    case automatic = "auto"
    case udp
    case packet
    /// AF_XDP in the driver, and else behind it.
    case xdp
    /// AF_XDP behind the driver.
    case genericXDP = "xdp-generic"
}

/// What a link got, and why nothing faster.
package struct LinkChoice: Sendable, Equatable {
    package var kind: LinkKind
    /// `native, copying` and the like; empty for UDP.
    package var detail: String
    /// Why it is not the next higher one; empty where it is the highest.
    package var reason: String

    package init(_ kind: LinkKind, detail: String = "", reason: String = "") {
        self.kind = kind
        self.detail = detail
        self.reason = reason
    }
}
