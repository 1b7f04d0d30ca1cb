// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import PacketIO
import TestNetwork
import Testing
import VerbsABI

@testable import SoftProvider

/// No adapter with filters was at hand: this one notes what it is asked, and refuses what it is told to.
private final class RecordedFilters: AdapterFilters {
    private(set) var inserted: [[UInt8]] = []
    private(set) var removed: [UInt32] = []
    var refusal: Int32?

    func insert(_ filter: [UInt8]) throws(PacketIOError) -> UInt32 {
        if let refusal { throw .system(call: "ioctl(ETHTOOL_SRXCLSRLINS)", code: refusal) }
        inserted.append(filter)
        return UInt32(100 + inserted.count)
    }

    func remove(_ location: UInt32) { removed.append(location) }
}

/// What stands behind the filters, without an interface.
private final class RecordedPlace: FramePlace {
    private(set) var rules: [FlowID: FlowRule] = [:]
    var refuses = false

    var place: ProviderFlowPlace { .xdp }
    var descriptors: [Int32] { [] }
    var dropped: UInt64 { 0 }

    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        if refuses { throw FramePlaceRefusal("told to") }
        rules[id] = rule
    }
    func remove(_ id: FlowID) { rules[id] = nil }
    func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int { 0 }
}

@Suite("Filters of an adapter") struct NtuplePlaceTests {
    @Test("A rule becomes a filter for the last queue, and stays whole behind it")
    func filters() throws {
        let filters = RecordedFilters()
        let behind = RecordedPlace()
        var place: NtuplePlace? = NtuplePlace(behind: behind, filters: filters, queue: 3)
        let rule = try FlowRule(parsing: "ip src 10.0.0.0/24 udp dst-port 7000 action tag 5 action count")
        let first = FlowID(rawValue: 1)
        try place?.insert(rule, first)
        try place?.insert(FlowRule(parsing: "ip tcp dst-port 80 action drop"), FlowID(rawValue: 2))
        try place?.insert(FlowRule(parsing: "ip6 udp dst-port 7000"), FlowID(rawValue: 3))
        // struct ethtool_rxnfc: ETHTOOL_SRXCLSRLINS, UDP_V4_FLOW, the address, the port, their masks, the queue, any place.
        var expected = [UInt8](repeating: 0, count: 192)
        expected.replaceSubrange(0..<4, with: [0x32, 0, 0, 0])
        expected.replaceSubrange(16..<20, with: [2, 0, 0, 0])
        expected.replaceSubrange(20..<24, with: [10, 0, 0, 0])
        expected.replaceSubrange(30..<32, with: [0x1B, 0x58])
        expected.replaceSubrange(92..<96, with: [255, 255, 255, 0])
        expected.replaceSubrange(102..<104, with: [255, 255])
        expected[168] = 3
        expected.replaceSubrange(176..<180, with: [255, 255, 255, 255])
        #expect(filters.inserted.count == 2 && filters.inserted[0] == expected)
        #expect(behind.rules.count == 3 && behind.rules[first] == rule)
        place?.remove(first)
        #expect(filters.removed == [101])
        place = nil
        #expect(filters.removed == [101, 102])
    }

    @Test("What filters or driver refuse is refused with the reason, and nothing stays behind")
    func refusals() throws {
        let filters = RecordedFilters()
        let behind = RecordedPlace()
        let place = NtuplePlace(behind: behind, filters: filters, queue: 1)
        func reason(_ text: String) throws -> String {
            let rule = try FlowRule(parsing: text)
            do throws(FramePlaceRefusal) {
                try place.insert(rule, FlowID(rawValue: 9))
            } catch { return error.reason }
            return "none"
        }
        #expect(try reason("sniffer").contains("normal rules only"))
        #expect(try reason("ip ttl 1").contains("ip ttl"))
        filters.refusal = EOPNOTSUPP
        #expect(try reason("ip udp dst-port 1").contains("no filters"))
        filters.refusal = EINVAL
        #expect(try reason("ip udp dst-port 1").contains("no filter for this rule"))
        filters.refusal = nil
        behind.refuses = true
        #expect(try reason("ip udp dst-port 1") == "told to")
        #expect(filters.removed == [101] && behind.rules.isEmpty)
    }

    @Test(
        "The kernel refuses filters where the driver has none",
        .enabled(if: Privilege.networkNamespaces, "network namespaces want root"))
    func realRefusal() throws {
        let answers = try VethPair.run { pair in
            try pair.command(
                "ip link add na numrxqueues 2 numtxqueues 2 type veth peer name nb numrxqueues 2 numtxqueues 2")
            let filters = try EthtoolFilters(interface: "na")
            let bytes = try NtupleRule.encode(FlowRule(parsing: "ip udp dst-port 7000"), queue: 1)
            var code: Int32 = 0
            do throws(PacketIOError) {
                _ = try filters.insert(bytes)
            } catch {
                if case .system(_, let found) = error { code = found }
            }
            return code
        }
        #expect(answers == EOPNOTSUPP)
    }
}
