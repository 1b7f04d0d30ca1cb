// SPDX-License-Identifier: Apache-2.0
import Verbs

/// A queue pair for messages of a handshake, with its buffers: what was received waits until it is asked for.
final class MessageQueue {
    /// perftest's longest message is a record.
    private static let bytesMax = 256
    private static let depth = 4

    private let domain: ProtectionDomain
    private let pool: BufferPool
    private let completions: CompletionQueue
    private let queuePair: QueuePair
    var arrived: [[UInt8]] = []
    /// Sends that have not completed.
    private(set) var unfinished = 0
    /// A request failed: the peer is gone, or ended the connection.
    private(set) var hasFailed = false
    private var isProbing = false

    init(_ context: Context) throws(PerfError) {
        do throws(VerbsError) {
            domain = try context.makeProtectionDomain()
            pool = try domain.makeBufferPool(count: 2 * Self.depth, size: Self.bytesMax, access: .localWrite)
            completions = try context.makeCompletionQueue(capacity: 2 * Self.depth)
            queuePair = try domain.makeQueuePair(
                .reliableConnected, options: QueuePairOptions(sendDepth: Self.depth, receiveDepth: Self.depth),
                completions: completions)
        } catch {
            throw .device("\(error)")
        }
    }

    /// INIT, with its receives.
    func prepare(_ identifier: ConnectionIdentifier) throws(VerbsError) {
        try identifier.prepare(queuePair, access: [.localWrite, .remoteWrite])
        for _ in 0..<Self.depth { postReceive() }
    }

    func activate(_ identifier: ConnectionIdentifier) throws(VerbsError) {
        try identifier.activate(queuePair, depths: (initiator: 0, responder: 0))
    }

    func ask(_ identifier: ConnectionIdentifier, _ parameters: ConnectionParameters) throws(VerbsError) {
        try identifier.connect(queuePair, parameters)
    }

    func accept(_ identifier: ConnectionIdentifier, _ parameters: ConnectionParameters) throws(VerbsError) {
        try identifier.accept(queuePair, parameters)
    }

    /// Posts a message; false if the queue pair takes none any more.
    func post(_ bytes: [UInt8]) throws(PerfError) -> Bool {
        guard !hasFailed, bytes.count <= Self.bytesMax, var buffer = pool.take() else { return false }
        buffer.fill(from: bytes)
        guard queuePair.post(.send, buffer).isPosted() else { return false }
        unfinished += 1
        return true
    }

    /// Writes nothing at the peer, which only its device notices. If that does not answer, the queue fails: a connection
    /// manager that died with its process says no goodbye.
    func probe() {
        guard !isProbing, !hasFailed, var buffer = pool.take() else { return }
        buffer.fill(from: [UInt8]())
        // Of no bytes neither key nor address is looked at (C9-88).
        let nowhere = RemoteMemory(address: 0, rkey: 0, length: 0)
        isProbing = queuePair.post(.write(to: nowhere), buffer).isPosted()
    }

    /// Takes what has completed. Returns whether there was anything.
    func poll() throws(PerfError) -> Bool {
        var found = false
        do throws(VerbsError) {
            while let completion = try completions.next() {
                found = true
                take(completion)
            }
        } catch {
            throw .device("\(error)")
        }
        return found
    }

    private func take(_ completion: consuming Completion) {
        guard completion.isSuccess else {
            hasFailed = true
            return
        }
        guard completion.opcode == .receive else {
            if completion.opcode == .write { isProbing = false } else { unfinished -= 1 }
            return
        }
        let count = completion.byteCount
        if let buffer = completion.takeBuffer() { arrived.append(Array(buffer.copyBytes().prefix(count))) }
        postReceive()
    }

    private func postReceive() {
        guard let buffer = pool.take() else { return }
        if !queuePair.receive(buffer).isPosted() { hasFailed = true }
    }
}
