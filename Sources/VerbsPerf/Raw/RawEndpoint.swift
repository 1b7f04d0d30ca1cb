// SPDX-License-Identifier: Apache-2.0
import Verbs

/// The raw packet queue pairs of one end, their memory, and the flows that steer to them.
@safe final class RawEndpoint {
    /// A flow, of which several stand in a list.
    private final class Attached {
        let flow: Flow
        init(_ flow: consuming Flow) { self.flow = flow }
    }

    let context: Context
    let interface: InterfaceFacts
    let queues: WorkQueues
    let region: MemoryRegion
    let queuePairCount: Int
    let transmitDepth: Int
    let receiveDepth: Int
    /// Bytes from the start of one frame's memory to that of the next.
    let stride: Int
    private var flows: [Attached] = []

    /// Makes the queue pairs; nothing is attached or posted yet.
    init(
        _ device: DeviceChoice, _ interface: InterfaceFacts, queuePairs: Int, transmitDepth: Int, receiveDepth: Int
    ) throws(PerfError) {
        context = device.context
        self.interface = interface
        queuePairCount = queuePairs
        self.transmitDepth = transmitDepth
        self.receiveDepth = receiveDepth
        stride = (interface.mtu + RawOptions.headerByteCount + 63) & ~63
        do throws(VerbsError) {
            let domain = try context.makeProtectionDomain()
            region = try domain.makeRegion(length: queuePairs * (transmitDepth + receiveDepth) * stride)
            queues = try Self.makeQueues(context, domain, queuePairs, transmitDepth, receiveDepth)
            for index in 0..<queuePairs { try unsafe queues.queuePairs[index].start(port: device.port.number) }
        } catch {
            throw .device("\(error)")
        }
    }

    private static func makeQueues(
        _ context: Context, _ domain: ProtectionDomain, _ count: Int, _ transmitDepth: Int, _ receiveDepth: Int
    ) throws(VerbsError) -> WorkQueues {
        let queues = WorkQueues(
            capacity: count, channel: nil,
            sendCompletions: try context.makeCompletionQueue(capacity: count * transmitDepth + 1),
            receiveCompletions: try context.makeCompletionQueue(capacity: count * receiveDepth + 1))
        let options = QueuePairOptions(sendDepth: transmitDepth, receiveDepth: receiveDepth)
        for _ in 0..<count {
            queues.append(
                try unsafe domain.makeQueuePair(
                    .rawPacket, options: options, sendCompletions: queues.sendCompletions.pointee,
                    receiveCompletions: queues.receiveCompletions.pointee))
        }
        return queues
    }

    /// Attaches a rule to each queue pair.
    func attach(_ rules: [FlowRule], _ options: RawOptions) throws(PerfError) {
        for (index, rule) in rules.enumerated() {
            do throws(VerbsError) {
                flows.append(
                    Attached(
                        try unsafe queues.queuePairs[index].attach(rule, mode: options.mode, places: options.places)))
            } catch {
                throw .device("\(error)")
            }
        }
    }

    /// Where the rules are carried out.
    var placement: FlowPlacement? { flows.first?.flow.placement }

    /// What the device lost or dropped of the frames that came, by its own counters.
    var losses: [String: Int] {
        var losses: [String: Int] = [:]
        for (name, value) in context.counters where value > 0 && Self.lossNames.contains(name) {
            losses[name] = Int(clamping: value)
        }
        return losses
    }

    private static let lossNames = [
        "frames_without_receive", "frames_too_long", "frames_not_ready", "frames_lost_no_room",
    ]

    // MARK: Memory

    /// The memory of a frame that is received.
    @inline(__always)
    func receiveMemory(_ queuePair: Int, _ slot: Int) -> LocalMemory {
        LocalMemory(
            address: region.ioAddress &+ UInt64((queuePair * receiveDepth + slot) * stride),
            length: UInt32(truncatingIfNeeded: stride), lkey: region.lkey)
    }

    private func sendOffset(_ queuePair: Int, _ slot: Int) -> Int {
        (queuePairCount * receiveDepth + queuePair * transmitDepth + slot) * stride
    }

    /// The memory of a frame that is sent.
    func sendMemory(_ queuePair: Int, _ slot: Int, size: Int) -> LocalMemory {
        region.local(offset: sendOffset(queuePair, slot), length: size)
    }

    /// Writes a frame where ``sendMemory(_:_:size:)`` is. No send of it may be in flight.
    func write(_ frame: [UInt8], _ queuePair: Int, _ slot: Int) {
        unsafe region.bytes[sendOffset(queuePair, slot)...].copyBytes(from: frame)
    }

    /// The eight bytes behind the headers of a received frame: its number in a latency run.
    func number(_ queuePair: Int, _ slot: Int) -> UInt64 {
        let offset = (queuePair * receiveDepth + slot) * stride + RawFrame.headerByteCount
        return unsafe region.bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
    }

    /// Writes the number of a frame that is sent.
    func setNumber(_ number: UInt64, _ queuePair: Int, _ slot: Int) {
        let offset = sendOffset(queuePair, slot) + RawFrame.headerByteCount
        unsafe region.bytes.storeBytes(of: number, toByteOffset: offset, as: UInt64.self)
    }

    // MARK: Work

    func postAllReceives() throws(PerfError) {
        for index in 0..<queuePairCount {
            for slot in 0..<receiveDepth { try postReceive(index, slot) }
        }
    }

    @inline(__always)
    func postReceive(_ index: Int, _ slot: Int) throws(PerfError) {
        let status = unsafe queues.queuePairs[index].receive(
            into: receiveMemory(index, slot), id: UInt64(index) | UInt64(slot) << 32)
        if status != .posted { throw PerfEndpoint.refused("receive", status) }
    }
}
