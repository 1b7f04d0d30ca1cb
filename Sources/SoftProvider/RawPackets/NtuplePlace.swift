// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import PacketIO
import RoCETransport
import VerbsABI

/// Flow rules in the adapter's own filters, which lead to its last receive queue, and the XDP program behind them.
///
/// The filters keep frames of the rules on one processor, and all else off it. What happens to a frame is still said by the
/// place behind, on whatever queue it comes: so the filters need no order, and a rule may say more than a filter can (tag, count).
/// The filters of a process that was killed stay; `ethtool -n` shows them, and they take nothing from the kernel's stack.
final class NtuplePlace: FramePlace {
    private let behind: any FramePlace
    private let filters: any AdapterFilters
    private let queue: UInt32
    private var locations: [FlowID: UInt32] = [:]

    var place: ProviderFlowPlace { .ntuple }
    var namesRules: Bool { behind.namesRules }
    var descriptors: [Int32] { behind.descriptors }
    var dropped: UInt64 { behind.dropped }

    /// - Parameters:
    ///   - behind: carries the rules out, for the frames of all queues.
    ///   - queue: the one that the filters lead to.
    init(behind: any FramePlace, filters: any AdapterFilters, queue: UInt32) {
        self.behind = behind
        self.filters = filters
        self.queue = queue
    }

    deinit {
        for location in locations.values { filters.remove(location) }
    }

    static func open(_ interface: NetworkInterface, mode: ProviderFlowMode) throws(FramePlaceRefusal) -> NtuplePlace {
        let queueCount = InterfaceDriver.receiveQueueCount(of: interface.name)
        guard queueCount > 1 else {
            throw FramePlaceRefusal("\(interface.name) has one receive queue: there is none to steer to")
        }
        let filters: EthtoolFilters
        do throws(PacketIOError) {
            filters = try EthtoolFilters(interface: interface.name)
        } catch {
            throw FramePlaceRefusal(error)
        }
        return NtuplePlace(
            behind: try XDPPlace(interface, mode: mode, attachment: .native), filters: filters,
            queue: UInt32(queueCount - 1))
    }

    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        let location = try insertFilter(rule)
        do throws(FramePlaceRefusal) {
            try behind.insert(rule, id)
        } catch {
            if let location { filters.remove(location) }
            throw error
        }
        locations[id] = location
    }

    /// What ends in the program needs no queue of its own.
    private func insertFilter(_ rule: FlowRule) throws(FramePlaceRefusal) -> UInt32? {
        guard !rule.drops else { return nil }
        var plain = rule
        plain.tag = nil
        plain.counts = false
        let bytes: [UInt8]
        do throws(FlowRuleError) {
            bytes = try NtupleRule.encode(plain, queue: queue)
        } catch {
            throw FramePlaceRefusal(error.description)
        }
        do throws(PacketIOError) {
            return try filters.insert(bytes)
        } catch {
            guard case .system(_, let code) = error else { throw FramePlaceRefusal(error) }
            switch code {
            case EOPNOTSUPP: throw FramePlaceRefusal("the driver has no filters (ethtool -N is not supported)")
            case EINVAL: throw FramePlaceRefusal("the driver has no filter for this rule (ethtool -N refuses it)")
            case EPERM:
                throw FramePlaceRefusal("the adapter's filters want CAP_NET_ADMIN: run as root", isOfPrivilege: true)
            default: throw FramePlaceRefusal(error.description)
            }
        }
    }

    func remove(_ id: FlowID) {
        if let location = locations.removeValue(forKey: id) { filters.remove(location) }
        behind.remove(id)
    }

    func counters(of id: FlowID) -> ProviderFlowCounters? { behind.counters(of: id) }

    var sends: Bool { behind.sends }
    func send(_ batch: borrowing FrameBatch) -> FrameSender.Outcome { behind.send(batch) }

    func finishSending() -> Bool { behind.finishSending() }

    func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        unsafe behind.receive(into: frames, limit: limit)
    }
}
