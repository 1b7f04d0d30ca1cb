// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

/// The device that the tests of this target use: `VERBS_TEST_DEVICE`, or the embedded device of the loopback interface.
enum TestDevice {
    static let name = getenv("VERBS_TEST_DEVICE").map { String(cString: $0) } ?? "soft_lo"

    static func open() throws(VerbsError) -> Context { try Device.named(name).open() }

    /// The longest that anything is waited for.
    static let patience: Duration = .seconds(20)

    /// The kernel's software device, which departs from the specification in places that the tests name.
    static let isRXE = name.hasPrefix("rxe")

    static let attributes: DeviceAttributes? = try? open().attributes
    static let hasWindows2 = attributes?.hasWindowsType2 ?? false
    static let hasWindows1 = attributes?.hasWindowsType1 ?? false
    static let hasInvalidate = attributes?.hasMemoryManagementExtensions ?? false
    static let hasSharedReceiveQueues = attributes?.hasSharedReceiveQueues ?? false
    static let hasAtomics = (attributes?.atomicScope ?? .none) != .none
}

/// Something that should have happened in time did not.
struct TimeoutError: Error, CustomStringConvertible {
    let description: String
}

/// Two queue pairs of one process, connected to each other, each with its completion queue.
final class ConnectedPair {
    let context: Context
    let domain: ProtectionDomain
    let pool: BufferPool
    let clientCompletions: CompletionQueue
    let serverCompletions: CompletionQueue
    let client: QueuePair
    let server: QueuePair
    let serverEndpoint: Endpoint
    let clientEndpoint: Endpoint

    init(
        _ transport: Transport, options: QueuePairOptions = QueuePairOptions(maxInline: 64), connects: Bool = true,
        connection: ConnectionOptions = ConnectionOptions(), bufferSize: Int = 16384, access: AccessFlags = .remote,
        channel: CompletionChannel? = nil, context: Context? = nil
    ) throws {
        let context = try context ?? TestDevice.open()
        self.context = context
        domain = try context.makeProtectionDomain()
        pool = try domain.makeBufferPool(count: 64, size: bufferSize, access: access)
        let capacity = options.sendDepth + options.receiveDepth
        clientCompletions = try context.makeCompletionQueue(capacity: capacity)
        serverCompletions = try context.makeCompletionQueue(capacity: capacity, channel: channel)
        client = try domain.makeQueuePair(transport, options: options, completions: clientCompletions)
        server = try domain.makeQueuePair(transport, options: options, completions: serverCompletions)
        clientEndpoint = try client.prepare()
        serverEndpoint = try server.prepare(peer: clientEndpoint.gid)
        guard connects else { return }
        if transport == .unreliableDatagram {
            try client.start()
            try server.start()
        } else {
            try client.connect(to: serverEndpoint, options: connection)
            try server.connect(to: clientEndpoint, options: connection)
        }
    }

    func buffer(_ text: String) throws -> RegisteredBuffer {
        guard var buffer = pool.take() else { throw TimeoutError(description: "the pool is empty") }
        buffer.fill(from: Array(text.utf8))
        return buffer
    }

    func buffer(count: Int? = nil) throws -> RegisteredBuffer {
        guard var buffer = pool.take() else { throw TimeoutError(description: "the pool is empty") }
        if let count { buffer.count = count }
        return buffer
    }

    func clientCompletion() throws -> Completion { try wait(clientCompletions, "client") }
    func serverCompletion() throws -> Completion { try wait(serverCompletions, "server") }

    /// Polls both queues, since a software device may make progress in either.
    private func wait(_ queue: borrowing CompletionQueue, _ name: String) throws -> Completion {
        let end = ContinuousClock.now + TestDevice.patience
        while ContinuousClock.now < end {
            if let completion = try queue.next() { return completion }
            usleep(20)
        }
        throw TimeoutError(description: "no completion on the \(name)'s queue")
    }
}

extension RegisteredBuffer {
    var text: String { withBytes { span in String(decoding: span.withUnsafeBytes { Array($0) }, as: UTF8.self) } }
}

extension RegisteredBuffer {
    var array: [UInt8] { withBytes { span in span.withUnsafeBytes { Array($0) } } }
}

/// Asks again and again until the answer is yes; throws when it does not come in time.
func eventually(_ what: String, _ condition: () throws -> Bool) throws {
    let end = ContinuousClock.now + TestDevice.patience
    while ContinuousClock.now < end {
        if try condition() { return }
        usleep(20)
    }
    throw TimeoutError(description: "waited in vain until \(what)")
}

/// `#require` for what cannot be copied.
func unwrap<T: ~Copyable>(_ value: consuming T?, sourceLocation: SourceLocation = #_sourceLocation) throws -> T {
    switch consume value {
    case .some(let value): return value
    case .none:
        Issue.record("there is nothing", sourceLocation: sourceLocation)
        throw TimeoutError(description: "there is nothing")
    }
}

// `#expect` takes only what can be copied.

func expectPosted(_ result: consuming PostResult, sourceLocation: SourceLocation = #_sourceLocation) {
    switch consume result {
    case .posted: break
    case .full: Issue.record("the queue is full", sourceLocation: sourceLocation)
    case .refused(_, let error): Issue.record(error, sourceLocation: sourceLocation)
    }
}

func hasBuffer(_ completion: consuming Completion) -> Bool {
    switch completion.takeBuffer() {
    case .some: return true
    case .none: return false
    }
}

/// Polls once.
func isEmpty(_ queue: borrowing CompletionQueue) throws -> Bool {
    guard let completion = try queue.next() else { return true }
    Issue.record("there was a completion: \(completion.workCompletion)")
    return false
}

/// The error of a call that must fail.
@discardableResult func refusal(
    sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws(VerbsError) -> Void
) -> VerbsError? {
    do throws(VerbsError) {
        try body()
        Issue.record("nothing was refused", sourceLocation: sourceLocation)
        return nil
    } catch {
        return error
    }
}

/// Checks a status; where rxe is known to report others, those are accepted from it.
func expect(
    _ status: WorkStatus, _ expected: WorkStatus, onRXE others: Set<WorkStatus>,
    sourceLocation: SourceLocation = #_sourceLocation
) {
    let accepted = TestDevice.isRXE ? others.union([expected]) : [expected]
    #expect(accepted.contains(status), "\(status)", sourceLocation: sourceLocation)
}
