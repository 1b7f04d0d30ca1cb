// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import PacketIO
import VerbsABI

/// Flow rules in user space, with frames from an AF_PACKET socket without a ring, for where its memory cannot be had.
final class PacketSocketPlace: FramePlace {
    private var socket: PacketSocket
    private let grant: PacketSocketGrant?
    private var taker: StackTaker
    private(set) var dropped: UInt64 = 0

    var place: ProviderFlowPlace { .packet }
    var descriptors: [Int32] { [socket.descriptor] }

    init(_ interface: NetworkInterface, mode: ProviderFlowMode, for rules: [FlowRule]) throws(FramePlaceRefusal) {
        taker = try StackTaker(interface, mode: mode)
        let source = try PacketSocketSource.receiving(rules, on: interface)
        grant = source.grant
        do throws(PacketIOError) {
            socket = try PacketSocket(interface: interface.index, socket: source.takeSocket())
        } catch {
            throw FramePlaceRefusal(error)
        }
    }

    var lender: String? { grant?.lender }

    // The classifier behind it finds the queue pairs.
    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal) {
        try grant?.check(rule)
        taker.insert(rule, id)
    }
    func remove(_ id: FlowID) { taker.remove(id) }
    func reasonForCopies(of id: FlowID) -> String? { taker.reasonForCopies(of: id) }

    func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int {
        let count = unsafe socket.receive(into: frames, limit: limit)
        if count == 0 { dropped += socket.newlyDropped }
        return count
    }
}
