// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import FlowSteering
import PacketIO
import VerbsABI

/// Flow rules in user space: every frame of the interface comes by an AF_PACKET ring, before the kernel's stack.
final class PacketRingPlace: FramePlace {
    private var ring: PacketRing
    private let grant: PacketSocketGrant?
    private var taker: StackTaker
    private var knownDropped: UInt64 = 0
    /// Empty calls since the kernel was asked for what it dropped.
    private var emptyCalls = 0

    var place: ProviderFlowPlace { .packetRing }
    var descriptors: [Int32] { [ring.descriptor] }

    /// The longest frame that Linux hands over: a super-frame that is not cut up yet.
    private static let frameByteCountMax = 65_536 + 64
    /// Blocks for an eighth of a second: as long as a busy machine may keep a thread from its processor.
    private static let ringByteCount = 32 << 20

    init(_ interface: NetworkInterface, mode: ProviderFlowMode, for rules: [FlowRule]) throws(FramePlaceRefusal) {
        taker = try StackTaker(interface, mode: mode)
        let source = try PacketSocketSource.receiving(rules, on: interface)
        grant = source.grant
        do throws(PacketIOError) {
            ring = try PacketRing(
                interface: interface.index, layout: .blocks(milliseconds: 1), frameByteCount: Self.frameByteCountMax,
                filter: nil, detail: .notes, ringByteCount: Self.ringByteCount,
                socket: source.takeSocket())
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
        ring.beginBatch()
        var count = 0
        while count < limit, let frame = ring.nextReceived() {
            unsafe (frames + count).initialize(to: frame)
            count += 1
        }
        if count == 0 { noteEmpty() }
        return count
    }

    /// The kernel counts from zero each time that it is asked.
    var dropped: UInt64 {
        knownDropped += ring.newlyDropped
        return knownDropped
    }

    private func noteEmpty() {
        emptyCalls += 1
        guard emptyCalls & 1023 == 0 else { return }
        // An interface that goes down leaves an error that keeps the descriptor readable.
        ring.takeError()
    }
}
