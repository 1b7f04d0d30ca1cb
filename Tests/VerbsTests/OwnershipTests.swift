// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

/// Programs that must not compile, each with the diagnostic that it gets: what the type system promises at the ownership
/// level. The programs are clients like any other, with no experimental feature.
@Suite(
    "The compiler",
    .enabled(if: Compiler.isPresent, "there is no swiftc"),
    .enabled(if: getenv("VERBS_TEST_DEVICE") == nil, "VERBS_TEST_DEVICE is set: only what needs a device runs"))
struct OwnershipTests {
    struct Program: Sendable, CustomTestStringConvertible {
        let name: String
        let diagnostic: String
        let body: String
        var testDescription: String { name }
    }

    static let prologue = """
        import Verbs

        func post(_ queuePair: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
            try? queuePair.post(.send, buffer).orThrow()
        }
        func use(_ bytes: RawSpan) {}

        """

    static let refused: [Program] = [
        Program(
            name: "a buffer used after its post", diagnostic: "'buffer' used after consume",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    _ = q.post(.send, buffer).isPosted()
                    print(buffer.count)
                }
                """),
        Program(
            name: "a buffer written after its post as a receive", diagnostic: "'buffer' used after consume",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    _ = q.receive(buffer).isPosted()
                    buffer.store(UInt8(1), at: 0)
                }
                """),
        Program(
            name: "a buffer posted twice", diagnostic: "'buffer' consumed more than once",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    post(q, buffer)
                    post(q, buffer)
                }
                """),
        Program(
            name: "a buffer posted in a loop", diagnostic: "'buffer' consumed in a loop",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    for _ in 0..<2 { post(q, buffer) }
                }
                """),
        Program(
            name: "a buffer used after a branch that posts it", diagnostic: "'buffer' used after consume",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer, _ now: Bool) {
                    if now { post(q, buffer) }
                    print(buffer.count)
                }
                """),
        Program(
            name: "a buffer appended to a list and posted too", diagnostic: "'second' consumed more than once",
            body: """
                func f(_ q: borrowing QueuePair, _ first: consuming RegisteredBuffer, _ second: consuming RegisteredBuffer) {
                    first.append(second)
                    post(q, second)
                    post(q, first)
                }
                """),
        Program(
            name: "a buffer used after it went into a batch", diagnostic: "'buffer' used after consume",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    var batch = q.batch()
                    _ = batch.post(.send, buffer).isPosted()
                    print(buffer.count)
                    _ = batch.submit()
                }
                """),
        Program(
            name: "a batch used after it was submitted", diagnostic: "'batch' used after consume",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    var batch = q.batch()
                    _ = batch.submit()
                    _ = batch.post(.send, buffer).isPosted()
                }
                """),
        Program(
            name: "a buffer used after it went into a batch of receives", diagnostic: "'buffer' used after consume",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    var batch = q.receiveBatch()
                    _ = batch.receive(buffer).isPosted()
                    print(buffer.count)
                    _ = batch.submit()
                }
                """),
        Program(
            name: "a buffer taken twice from its completion", diagnostic: "'completion' consumed more than once",
            body: """
                func f(_ completion: consuming Completion) {
                    _ = completion.takeBuffer()
                    _ = completion.takeBuffer()
                }
                """),
        Program(
            name: "a completion read after its buffer was taken", diagnostic: "'completion' used after consume",
            body: """
                func f(_ completion: consuming Completion) {
                    _ = completion.takeBuffer()
                    print(completion.isSuccess)
                }
                """),
        Program(
            name: "bytes being written while the buffer is posted",
            diagnostic: "overlapping accesses to 'buffer', but modification requires exclusive access",
            body: """
                func f(_ q: borrowing QueuePair, _ buffer: consuming RegisteredBuffer) {
                    var bytes = buffer.mutableBytes
                    post(q, buffer)
                    bytes.storeBytes(of: 1, as: UInt8.self)
                }
                """),
        Program(
            name: "bytes being read while the buffer is posted",
            diagnostic:
                "noncopyable 'buffer' cannot be consumed when captured by an escaping closure or borrowed by a non-Escapable type",
            body: """
                func f(_ q: borrowing QueuePair, _ pool: BufferPool) {
                    guard let buffer = pool.take() else { return }
                    let bytes = buffer.bytes
                    post(q, buffer)
                    use(bytes)
                }
                """),
        Program(
            name: "bytes kept after their buffer", diagnostic: "a function cannot return a ~Escapable result",
            body: """
                func f(_ buffer: borrowing RegisteredBuffer) -> RawSpan { buffer.bytes }
                """),
        Program(
            name: "a buffer posted out of an object",
            diagnostic: "cannot consume noncopyable stored property 'self.buffer' of a class",
            body: """
                final class Server {
                    let buffer: RegisteredBuffer
                    init(_ buffer: consuming RegisteredBuffer) { self.buffer = buffer }
                    func f(_ q: borrowing QueuePair) { post(q, self.buffer) }
                }
                """),
        Program(
            name: "a buffer copied", diagnostic: "'buffer' consumed more than once",
            body: """
                func f(_ buffer: consuming RegisteredBuffer) {
                    let a = buffer
                    let b = buffer
                    print(a.count + b.count)
                }
                """),
        Program(
            name: "a queue pair used from two tasks",
            diagnostic:
                "stored property 'queuePair' of 'Sendable'-conforming class 'Shared' has non-Sendable type 'QueuePair'",
            body: """
                final class Shared: Sendable {
                    let queuePair: QueuePair
                    init(_ queuePair: consuming QueuePair) { self.queuePair = queuePair }
                }
                """),
        Program(
            name: "a queue pair sent away from its completion queue",
            diagnostic: "sending 'queuePair' risks causing data races",
            body: """
                final class Holder { let queuePair: QueuePair; init(_ q: consuming QueuePair) { queuePair = q } }
                func take(_ holder: sending Holder) {}
                func f(_ domain: ProtectionDomain, _ context: Context) throws {
                    let completions = try context.makeCompletionQueue(capacity: 256)
                    let queuePair = Holder(try domain.makeQueuePair(.reliableConnected, completions: completions))
                    take(queuePair)
                    _ = try completions.next()
                }
                """),
        Program(
            name: "a queue pair used after its end", diagnostic: "'queuePair' used after consume",
            body: """
                func f(_ queuePair: consuming QueuePair) throws {
                    try queuePair.destroy()
                    print(queuePair.number)
                }
                """),
    ]

    @Test("refuses", arguments: refused)
    func mustNotCompile(_ program: Program) throws {
        let outcome = try Compiler.compile(Self.prologue + program.body)
        #expect(outcome.status != 0, "it compiled")
        #expect(outcome.errors.count == 1, "\(outcome.output)")
        #expect(outcome.errors.first?.hasPrefix(program.diagnostic) == true, "\(outcome.output)")
    }

    @Test("accepts the right program, so that the others fail for their own reasons")
    func control() throws {
        let outcome = try Compiler.compile(
            Self.prologue + """
                func f(_ q: borrowing QueuePair, _ completions: borrowing CompletionQueue, _ pool: BufferPool) throws {
                    guard var buffer = pool.take() else { return }
                    buffer.store(UInt8(1), at: 0)
                    use(buffer.bytes)
                    switch q.post(.send, buffer) {
                    case .posted: break
                    case .full(let buffer): print(buffer.count)
                    case .refused(_, let error): throw error
                    }
                    var batch = q.batch()
                    if let another = pool.take() { _ = batch.post(.send, another).isPosted() }
                    try batch.submit().orThrow()
                    while let completion = try completions.next() {
                        if var buffer = completion.takeBuffer() { buffer.count = 0; post(q, buffer) }
                    }
                }
                """)
        #expect(outcome.status == 0, "\(outcome.output)")
        #expect(!outcome.output.contains("warning"), "\(outcome.output)")
    }

    @Test("asks for `unsafe` at the raw level, in a client with strict memory safety")
    func rawLevelIsUnsafe() throws {
        let program = """
            func f(_ q: borrowing QueuePair, _ region: MemoryRegion) {
                _ = q.post(.send, from: region.local(), id: 1)
                _ = q.receive(into: region.local(), id: 1)
                _ = region.bytes
            }
            """
        let flags = ["-strict-memory-safety", "-Werror", "StrictMemorySafety"]
        let outcome = try Compiler.compile(Self.prologue + program, arguments: flags)
        #expect(outcome.errors.count == 3, "\(outcome.output)")
        let marked = program.replacing("q.post", with: "unsafe q.post").replacing("q.rec", with: "unsafe q.rec")
            .replacing("= region", with: "= unsafe region")
        let accepted = try Compiler.compile(Self.prologue + marked, arguments: flags)
        #expect(accepted.status == 0, "\(accepted.output)")
    }
}
