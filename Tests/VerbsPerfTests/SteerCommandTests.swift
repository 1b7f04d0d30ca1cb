// SPDX-License-Identifier: Apache-2.0
import Testing
import Verbs

@testable import VerbsCommand

@Suite("verbs steer")
struct SteerCommandTests {
    @Test("Rules, places and options are judged before anything is opened")
    func arguments() throws {
        _ = try SteerCommand.parse(["-d", "eth0"])
        _ = try SteerCommand.parse(["-d", "eth0", "--place", "xdp,packet-ring", "--mode", "shared", "any", "sniffer"])
        _ = try SteerCommand.parse(["--explain", "ip udp dst-port 7000"])
        for words in [
            [], ["--explain"], ["-d", "eth0", "udp dst-port 99999"], ["-d", "eth0", "--place", "nowhere", "any"],
            ["-d", "eth0", "--count", "3"], ["-d", "eth0", "--count", "0", "any"],
            ["-d", "eth0", "--mode", "all", "any"],
        ] {
            #expect(throws: (any Error).self, "\(words)") { try SteerCommand.parse(words) }
        }
    }

    @Test("An explanation has the normal form, the bytes of both structures, or why not")
    func explanation() throws {
        let udp = RuleExplanation(try FlowRule(parsing: "udp dst-port 7000 ip action tag 3"))
        #expect(udp.rule == "ip udp dst-port 7000 action tag 3")
        #expect(udp.attributes.split(separator: " ").count == 72)
        #expect(udp.ntuple?.first?.value == "UDP_V4_FLOW")
        #expect(udp.leftToOwner == ["tag 3"])
        let tunnel = RuleExplanation(try FlowRule(parsing: "vxlan vni 7 inner ip src 10.0.0.0/8"))
        #expect(tunnel.ntuple == nil && tunnel.notNtuple?.contains("tunnels") == true)
        #expect(tunnel.headers.map(\.name) == ["vxlan", "inner ip"])
    }

    @Test("Of an error that names several places, each has its own reason")
    func reasons() {
        let error = VerbsError(
            .unsupported, verb: "ibv_create_flow",
            subject:
                "xdp: the driver of lo has no native XDP; use another; packet-ring: socket(AF_PACKET) needs CAP_NET_RAW",
            remedy: "")
        #expect(PlaceReport.reason(of: .xdp, in: error) == "the driver of lo has no native XDP; use another")
        #expect(PlaceReport.reason(of: .packetRing, in: error) == "socket(AF_PACKET) needs CAP_NET_RAW")
        #expect(PlaceReport.reason(of: .udp, in: error) == "the device does not have it")
    }
}
