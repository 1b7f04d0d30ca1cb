// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Glibc
import VerbsABI

/// What the environment asks of the software device: for tests of programs that cannot be changed.
///
/// | variable | meaning |
/// |---|---|
/// | `VERBS_SOFT_FAULTS` | `drop=0.1,duplicate=0.1,reorder=0.1,corrupt=0.01,seed=7`: faults on each frame that is sent |
/// | `VERBS_SOFT_CAPTURE` | a file that every frame sent and received is written to, in pcap form |
/// | `VERBS_SOFT_GSO` | `0`: one system call a frame, no segmentation offload |
/// | `VERBS_SOFT_CONGESTION` | `0`: no congestion control, always the largest window |
/// | `VERBS_SOFT_SELECTIVE` | `0`: selective repetition is neither offered to peers nor taken |
/// | `VERBS_SOFT_LINK` | `auto`, `udp`, `packet`, `xdp` or `xdp-generic`: what packets go by |
/// | `VERBS_SOFT_FLOWS` | which places may carry flow rules out, of `ntuple,xdp-direct,xdp,xdp-generic,packet-ring,packet,udp` |
/// | `VERBS_SOFT_SOURCES` | in whose name raw packets may be sent, such as `own,10.0.0.0/8`: see `SourceCheck` |
/// | `VERBS_STEERD` | the Unix socket of the `verbs steerd` that packet sockets and AF_XDP sockets are lent by |
/// | `VERBS_SOFT_SAME_HOST` | `0`: packets to other processes of this host go over UDP too, not through shared memory |
struct DeviceEnvironment: Sendable {
    var faults: String?
    var capturePath: String?
    var segmentationOffload: Bool
    var congestionControl: Bool
    var selectiveRepetition: Bool
    var sameHost: Bool
    /// As it stands: what is none of the names is an error when the device is opened.
    var link: String?
    var flows: String?
    var sources: String?

    init() {
        faults = Self.value("VERBS_SOFT_FAULTS")
        capturePath = Self.value("VERBS_SOFT_CAPTURE")
        segmentationOffload = Self.value("VERBS_SOFT_GSO") != "0"
        selectiveRepetition = Self.value("VERBS_SOFT_SELECTIVE") != "0"
        congestionControl = Self.value("VERBS_SOFT_CONGESTION") != "0"
        sameHost = Self.value("VERBS_SOFT_SAME_HOST") != "0"
        link = Self.value("VERBS_SOFT_LINK")
        flows = Self.value("VERBS_SOFT_FLOWS")
        sources = Self.value("VERBS_SOFT_SOURCES")
    }

    /// The places for flow rules that are left: all, if nothing is said.
    var flowPlaces: Set<ProviderFlowPlace> {
        get throws(ProviderError) {
            guard let flows else { return Set(ProviderFlowPlace.allCases) }
            var places: Set<ProviderFlowPlace> = []
            for name in flows.split(separator: ",") {
                guard let place = ProviderFlowPlace(rawValue: String(name)) else {
                    let names = ProviderFlowPlace.allCases.map(\.rawValue).joined(separator: ", ")
                    throw ProviderError(
                        "ibv_open_device", code: EINVAL, detail: "VERBS_SOFT_FLOWS=\(flows): the places are \(names)")
                }
                places.insert(place)
            }
            return places
        }
    }

    /// The sources that raw packets may have: `nil` for any, if nothing is said.
    var sourceCheck: SourceCheck? {
        get throws(ProviderError) {
            guard let sources else { return nil }
            do throws(FlowRuleError) {
                return try SourceCheck(parsing: sources)
            } catch {
                throw ProviderError("ibv_open_device", code: EINVAL, detail: "VERBS_SOFT_SOURCES, \(error)")
            }
        }
    }

    private static func value(_ name: String) -> String? {
        // The string is copied at once; nobody in this process changes the environment while a device is opened.
        guard let text = unsafe getenv(name) else { return nil }
        let value = unsafe String(cString: text)
        return value.isEmpty ? nil : value
    }
}
