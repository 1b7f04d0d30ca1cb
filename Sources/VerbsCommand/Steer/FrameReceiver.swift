// SPDX-License-Identifier: Apache-2.0
import Verbs

/// A raw packet queue pair with flows, and the buffers that frames come into.
final class FrameReceiver {
    /// As long as a super-frame that the kernel has not cut up, and its header.
    private static let bufferByteCount = 65_536 + 128
    private static let depth = 1024

    /// A flow, of which several stand in a list.
    final class Attached {
        let flow: Flow
        init(_ flow: consuming Flow) { self.flow = flow }
    }

    let context: Context
    let completions: CompletionQueue
    /// In the order of their rules.
    private(set) var flows: [Attached] = []
    private let queuePair: QueuePair

    /// Opens the device, posts receives, and attaches the rules.
    init(
        _ device: Device, _ rules: [FlowRule], mode: FlowMode, places: Set<FlowPlace>
    ) throws(VerbsError) {
        context = try device.open()
        let domain = try context.makeProtectionDomain()
        let pool = try domain.makeBufferPool(count: Self.depth, size: Self.bufferByteCount)
        let completions = try context.makeCompletionQueue(
            capacity: Self.depth + 1, channel: try context.makeCompletionChannel())
        queuePair = try domain.makeQueuePair(
            .rawPacket, options: QueuePairOptions(sendDepth: 1, receiveDepth: Self.depth), completions: completions)
        self.completions = completions
        try queuePair.start(port: 1)
        while let buffer = pool.take() { try post(buffer) }
        for rule in rules {
            flows.append(Attached(try queuePair.attach(Self.counting(rule, device), mode: mode, places: places)))
        }
    }

    /// A verbs device counts what it is told to; the embedded one always does.
    private static func counting(_ rule: FlowRule, _ device: Device) -> FlowRule {
        var rule = rule
        if device.kind != .embedded { rule.counts = true }
        return rule
    }

    /// Lets the next frame come into a buffer.
    func post(_ buffer: consuming RegisteredBuffer) throws(VerbsError) {
        var buffer = buffer
        buffer.count = buffer.capacity
        if case .posted = queuePair.receive(buffer) { return }
        throw VerbsError(
            .disconnected, verb: "ibv_post_recv", remedy: "The queue pair takes no receives any more: open it again")
    }

    /// Frames that rules may have matched and that did not come here, by the device's names for why.
    var losses: [(name: String, value: UInt64)] {
        let names = ["frames_too_long", "frames_without_receive", "frames_not_ready", "frames_lost_no_room"]
        return context.counters.filter { names.contains($0.name) && $0.value > 0 }
    }
}
