// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

/// Buffers in flight under the guard: what may be touched, and what happens to a program that touches another.
@Suite("The buffer guard", .serialized) struct BufferGuardTests {
    /// Two queue pairs of one process on a device that guards buffers.
    static func pair(
        _ transport: Transport = .reliableConnected, options: QueuePairOptions = QueuePairOptions(),
        connects: Bool = true, bufferSize: Int = 4096
    ) throws -> ConnectedPair {
        try ConnectedPair(transport, options: options, connects: connects, bufferSize: bufferSize, context: open())
    }

    static func open() throws -> Context { try Device.named(TestDevice.name).open(guardsBuffers: true) }

    /// What may be done to an address. The kernel is asked, which refuses without a signal.
    struct Permission: Equatable {
        var read: Bool
        var write: Bool

        static let none = Permission(read: false, write: false)
        static let readOnly = Permission(read: true, write: false)
        static let all = Permission(read: true, write: true)

        init(read: Bool, write: Bool) { (self.read, self.write) = (read, write) }

        /// Writes the byte to a pipe and reads it back to where it was.
        init(of address: UnsafeMutableRawPointer) throws {
            var ends: [Int32] = [0, 0]
            guard pipe(&ends) == 0 else { throw TimeoutError(description: "pipe: \(errno)") }
            defer { for end in ends { close(end) } }
            read = Glibc.write(ends[1], address, 1) == 1
            var other: UInt8 = 0
            if !read { _ = Glibc.write(ends[1], &other, 1) }
            write = Glibc.read(ends[0], address, 1) == 1
        }
    }

    static func permission(_ address: UnsafeMutableRawPointer) throws -> Permission { try Permission(of: address) }
}

// MARK: What may be touched

extension BufferGuardTests {
    @Test("closes a receive's pages, and its completion opens them", arguments: DeviceTests.connectedTransports)
    func receive(_ transport: Transport) throws {
        let pair = try Self.pair(transport)
        let buffer = try pair.buffer()
        let address = buffer.address
        #expect(try Self.permission(address) == .all)
        expectPosted(pair.server.receive(buffer))
        #expect(try Self.permission(address) == .none)
        expectPosted(try pair.client.post(.send, pair.buffer("Hello, verbs")))
        #expect(hasBuffer(try pair.clientCompletion()))
        let received = try pair.serverCompletion()
        #expect(try Self.permission(address) == .all)
        #expect(received.takeBuffer()?.text == "Hello, verbs")
    }

    @Test("leaves a send's pages to be read, and its completion opens them")
    func send() throws {
        let pair = try Self.pair()
        expectPosted(try pair.server.receive(pair.buffer()))
        let buffer = try pair.buffer("a message")
        let address = buffer.address
        expectPosted(pair.client.post(.send, buffer))
        #expect(try Self.permission(address) == .readOnly)
        let sent = try pair.clientCompletion()
        #expect(try Self.permission(address) == .all)
        #expect(sent.takeBuffer()?.text == "a message")
        #expect(try pair.serverCompletion().takeBuffer()?.text == "a message")
    }

    @Test("closes the pages that a read or an atomic fills")
    func targets() throws {
        let pair = try Self.pair()
        let source = try pair.domain.makeRegion(length: 4096, access: .remote)
        source.bytes.storeBytes(of: 40, as: UInt64.self)
        let word = try #require(source.remote(offset: 0, length: 8))
        var operations: [SendOperation] = [.read(from: word)]
        if TestDevice.hasAtomics { operations.append(.fetchAndAdd(at: word, 0)) }
        for operation in operations {
            let buffer = try pair.buffer(count: 8)
            let address = buffer.address
            expectPosted(pair.client.post(operation, buffer))
            #expect(try Self.permission(address) == .none)
            #expect(try pair.clientCompletion().takeBuffer()?.load(as: UInt64.self) == 40)
            #expect(try Self.permission(address) == .all)
        }
    }

    @Test("closes all buffers of a list, and all of a batch")
    func listsAndBatches() throws {
        let pair = try Self.pair(options: QueuePairOptions(receiveElements: 2), bufferSize: 100)
        var targets: [UnsafeMutableRawPointer] = []
        for _ in 0..<12 {
            var first = try pair.buffer(count: 3)
            let second = try pair.buffer()
            targets += [first.address, second.address]
            first.append(second)
            expectPosted(pair.server.receive(first))
        }
        #expect(try targets.allSatisfy { try Self.permission($0) == .none })
        var sources: [UnsafeMutableRawPointer] = []
        var batch = pair.client.batch()
        for index in 0..<12 {
            let buffer = try pair.buffer("message \(index)")
            sources.append(buffer.address)
            expectPosted(batch.post(.send, buffer, id: UInt64(index)))
        }
        #expect(batch.submit().posted == 12)
        #expect(try sources.allSatisfy { try Self.permission($0) == .readOnly })
        for index in 0..<12 {
            #expect(try pair.clientCompletion().id == UInt64(index))
            var received = try unwrap(pair.serverCompletion().takeBuffer())
            let rest = try unwrap(received.takeRest())
            #expect(received.text == "mes")
            #expect(rest.text == "sage \(index)")
        }
        #expect(try (sources + targets).allSatisfy { try Self.permission($0) == .all })
    }

    @Test("closes what is added to a batch of receives, until its completion or until it is let go")
    func receiveBatches() throws {
        let pair = try Self.pair()
        let kept = try pair.buffer()
        let letGo = try pair.buffer()
        let addresses = [kept.address, letGo.address]
        var batch = pair.server.receiveBatch()
        expectPosted(batch.receive(kept))
        #expect(try Self.permission(addresses[0]) == .none)
        #expect(batch.submit().posted == 1)
        do {
            var another = pair.server.receiveBatch()
            expectPosted(another.receive(letGo))
            #expect(try addresses.allSatisfy { try Self.permission($0) == .none })
        }
        #expect(try Self.permission(addresses[0]) == .none)
        #expect(try Self.permission(addresses[1]) == .all)
        expectPosted(try pair.client.post(.send, pair.buffer("arrives")))
        #expect(try pair.serverCompletion().takeBuffer()?.text == "arrives")
        #expect(try Self.permission(addresses[0]) == .all)
    }

    @Test("opens what a batch that is let go had closed")
    func abandonedBatch() throws {
        let pair = try Self.pair()
        let region = try pair.domain.makeRegion(length: 4096)
        let buffer = try pair.buffer("never sent")
        let address = buffer.address
        do {
            var batch = pair.client.batch()
            expectPosted(batch.post(.send, buffer))
            #expect(batch.post(.send, from: region.local(), id: 1) == .posted)
            #expect(try Self.permission(address) == .readOnly)
            #expect(try Self.permission(region.bytes.baseAddress!) == .readOnly)
        }
        #expect(try Self.permission(address) == .all)
        #expect(try Self.permission(region.bytes.baseAddress!) == .all)
    }

    @Test("opens the pages of unsignaled sends when a later one completes")
    func unsignaled() throws {
        let pair = try Self.pair()
        let target = try pair.domain.makeRegion(length: 4096, access: .remote)
        let source = try pair.domain.makeRegion(length: 2 * 4096)
        let base = source.bytes.baseAddress!
        let first = source.local(offset: 0, length: 4096)
        #expect(pair.client.post(.write(to: target.remote), from: first, id: 1, flags: []) == .posted)
        let second = source.local(offset: 4096, length: 4096)
        #expect(pair.client.post(.write(to: target.remote), from: second, id: 2) == .posted)
        #expect(try Self.permission(base) == .readOnly)
        #expect(try pair.clientCompletion().id == 2)
        #expect(try Self.permission(base) == .all)
        #expect(try Self.permission(base + 4096) == .all)
    }

    @Test(
        "guards receives of a shared queue",
        .enabled(if: TestDevice.hasSharedReceiveQueues, "the device has no shared receive queues"))
    func sharedReceives() throws {
        let context = try Self.open()
        let domain = try context.makeProtectionDomain()
        let pool = try domain.makeBufferPool(count: 8, size: 256)
        let sends = try context.makeCompletionQueue(capacity: 64)
        let receives = try context.makeCompletionQueue(capacity: 64)
        let shared = try domain.makeSharedReceiveQueue(depth: 4)
        let options = QueuePairOptions(sendDepth: 16, receiveDepth: 16)
        let one = try domain.makeQueuePair(
            .reliableConnected, options: options, sendCompletions: sends, receiveCompletions: receives,
            sharedReceives: shared)
        let other = try domain.makeQueuePair(.reliableConnected, options: options, completions: sends)
        let end = try one.prepare()
        try one.connect(to: other.prepare(peer: end.gid))
        try other.connect(to: end)
        var addresses: [UnsafeMutableRawPointer] = []
        for id in 0..<2 {
            let buffer = try unwrap(pool.take())
            addresses.append(buffer.address)
            expectPosted(shared.receive(buffer, id: UInt64(id)))
        }
        #expect(try addresses.allSatisfy { try Self.permission($0) == .none })
        var message = try unwrap(pool.take())
        message.fill(from: Array("for whoever is first".utf8))
        expectPosted(other.post(.send, message))
        var texts: [String] = []
        try eventually("the message arrives") {
            _ = try sends.next()
            guard let completion = try receives.next() else { return false }
            let index = Int(completion.id)
            #expect(try Self.permission(addresses[index]) == .all)
            #expect(try Self.permission(addresses[1 - index]) == .none)
            if let buffer = completion.takeBuffer() { texts.append(buffer.text) }
            return true
        }
        #expect(texts == ["for whoever is first"])
    }

    @Test("closes, of memory at the raw level, the pages that lie wholly in what was posted")
    func wholePages() throws {
        let pair = try Self.pair()
        let region = try pair.domain.makeRegion(length: 3 * 4096 + 100)
        let pages = (0..<4).map { region.bytes.baseAddress! + $0 * 4096 }
        #expect(pair.server.receive(into: region.local(offset: 100, length: 8192), id: 1) == .posted)
        #expect(try pages.map(Self.permission) == [.all, .none, .all, .all])
        // What follows the region on its last page is nobody's.
        #expect(pair.server.receive(into: region.local(offset: 3 * 4096, length: 100), id: 2) == .posted)
        #expect(try pages.map(Self.permission) == [.all, .none, .all, .none])
        #expect(pair.server.receive(into: region.local(offset: 2 * 4096, length: 64), id: 3) == .posted)
        #expect(try pages.map(Self.permission) == [.all, .none, .all, .none])
    }

    @Test("opens pages that several requests name with the last of them")
    func overlap() throws {
        let pair = try Self.pair()
        for _ in 0..<3 { expectPosted(try pair.server.receive(pair.buffer())) }
        let region = try pair.domain.makeRegion(length: 4096)
        let page = region.bytes.baseAddress!
        for id in 1...3 { #expect(pair.client.post(.send, from: region.local(), id: UInt64(id)) == .posted) }
        for id in 1...3 {
            #expect(try Self.permission(page) == .readOnly)
            #expect(try pair.clientCompletion().id == UInt64(id))
        }
        #expect(try Self.permission(page) == .all)
    }

    @Test("leaves alone what was refused")
    func refused() throws {
        let pair = try Self.pair(connects: false)
        let buffer = try pair.buffer("too early")
        let address = buffer.address
        // The queue pair is not in RTS. rxe takes it, and flushes.
        switch pair.client.post(.send, buffer) {
        case .posted: #expect(TestDevice.isRXE)
        case .full: Issue.record("the queue is full")
        case .refused(let buffer, _): #expect(try Self.permission(buffer.address) == .all && buffer.address == address)
        }
    }

    @Test("leaves nothing closed when the queue pair is gone, polled or not")
    func ends() throws {
        let context = try Self.open()
        let domain = try context.makeProtectionDomain()
        let completions = try context.makeCompletionQueue(capacity: 256)
        let region = try domain.makeRegion(length: 2 * 4096)
        let page = region.bytes.baseAddress!
        let pool = try domain.makeBufferPool(count: 1, size: 4096)
        do {
            let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)
            _ = try queuePair.prepare()
            #expect(queuePair.receive(into: region.local(), id: 1) == .posted)
            expectPosted(queuePair.receive(try unwrap(pool.take()), id: 2))
            #expect(try Self.permission(page) == .none)
            try queuePair.destroy()
        }
        #expect(try Self.permission(page) == .all)
        #expect(try Self.permission(page + 4096) == .all)
        let first = try unwrap(completions.next())
        #expect(first.id == 1 && first.status == .flushed)
        let second = try unwrap(completions.next())
        #expect(second.id == 2 && second.status == .flushed)
        let buffer = try unwrap(second.takeBuffer())
        #expect(try Self.permission(buffer.address) == .all)
    }

    @Test("is off where nobody asked for it", .enabled(if: getenv("VERBS_GUARD") == nil, "VERBS_GUARD is set"))
    func off() throws {
        let pair = try ConnectedPair(.reliableConnected)
        let buffer = try pair.buffer()
        let address = buffer.address
        expectPosted(pair.server.receive(buffer))
        #expect(try Self.permission(address) == .all)
    }
}

// MARK: What a program that touches a buffer in flight gets

extension BufferGuardTests {
    @Test("ends a program that reads a receive's buffer, and says whose it is")
    func touchedReceive() async throws {
        let result = try await #require(
            processExitsWith: .signal(SIGSEGV), observing: [\.standardOutputContent, \.standardErrorContent]
        ) {
            try ChildOfTest.readReceive()
        }
        let said = try ChildOfTest.Words(result.standardOutputContent)
        #expect(
            String(decoding: result.standardErrorContent, as: UTF8.self).contains(
                "swift-verbs: buffer \(said.address), 4096 bytes, was touched at \(said.address(plus: 5)) while a receive "
                    + "was in flight: work request 18 of queue pair \(said.queuePair), posted at "
                    + "VerbsTests/BufferGuardTests.swift:\(said.line). Wait for its completion before touching the buffer.\n"
            ))
    }

    @Test("ends a program that writes to a send's buffer, and says whose it is")
    func writtenSend() async throws {
        let result = try await #require(
            processExitsWith: .signal(SIGSEGV), observing: [\.standardOutputContent, \.standardErrorContent]
        ) {
            try ChildOfTest.writeSend()
        }
        let said = try ChildOfTest.Words(result.standardOutputContent)
        #expect(
            String(decoding: result.standardErrorContent, as: UTF8.self).contains(
                "swift-verbs: buffer \(said.address), 4096 bytes, was written at \(said.address) while a send was in flight: "
                    + "work request 3 of queue pair \(said.queuePair), posted at "
                    + "VerbsTests/BufferGuardTests.swift:\(said.line). "))
    }

    @Test("is turned on by the environment, and names the lines of the raw level, of batches and of shared queues")
    func everyLevel() async throws {
        let result = try await #require(
            processExitsWith: .exitCode(77), observing: [\.standardErrorContent]
        ) {
            ChildOfTest.bound()
            setenv("VERBS_GUARD", "1", 1)
            ChildOfTest.openPagesThatFault()
            let pair = try ConnectedPair(.reliableConnected)
            let region = try pair.domain.makeRegion(length: 8 * 4096)
            let shared = try pair.domain.makeSharedReceiveQueue(depth: 4)
            func part(_ page: Int) -> LocalMemory { region.local(offset: page * 4096, length: 4096) }
            _ = pair.server.receive(into: part(0), id: 10, file: "A", line: 1)
            _ = pair.server.receive(into: [part(1)].span, id: 11, file: "A", line: 2)
            _ = pair.client.post(.send, from: part(2), id: 12, file: "A", line: 3)
            _ = pair.client.post(.send, from: [part(3)].span, id: 13, file: "A", line: 4)
            _ = shared.receive(into: part(4), id: 14, file: "A", line: 5)
            var batch = pair.client.batch()
            _ = batch.post(.write(to: region.remote), from: part(5), id: 15, file: "A", line: 6)
            var receives = pair.server.receiveBatch()
            _ = receives.receive(into: part(6), id: 16, file: "A", line: 7)
            for page in 0..<7 { region.bytes.storeBytes(of: 0, toByteOffset: page * 4096, as: UInt8.self) }
            // What is let go is not in flight any more: batches and queue are, up to here.
            _ = batch.submit()
            _ = receives.submit()
            _ = shared.receivesInFlight
            exit(77)
        }
        let errors = String(decoding: result.standardErrorContent, as: UTF8.self)
        let places = errors.split(separator: "\n").filter { $0.hasPrefix("swift-verbs: buffer ") }
        let operations = ["a receive", "a receive", "a send", "a send", "a receive", "a write", "a receive"]
        #expect(places.count == operations.count, "\(errors)")
        for (index, operation) in operations.enumerated() {
            guard index < places.count else { break }
            #expect(places[index].contains("while \(operation) was in flight: work request \(10 + index) of "))
            #expect(places[index].contains(", posted at A:\(index + 1). "))
            #expect(places[index].contains(" of a shared receive queue, ") == (index == 4))
        }
    }

    @Test(
        "lets go of a region that the system refuses to protect, and says so",
        .enabled(if: ChildOfTest.mappingsMax <= 1 << 18, "vm.max_map_count is too high to reach"))
    func noMoreMappings() async throws {
        let result = try await #require(processExitsWith: .exitCode(77), observing: [\.standardErrorContent]) {
            ChildOfTest.bound()
            let pair = try BufferGuardTests.pair()
            let first = try pair.buffer()
            // Apart from the first: neighbours would be one mapping.
            let between = try pair.buffer()
            let second = try pair.buffer()
            let (closed, open) = (first.address, second.address)
            expectPosted(pair.server.receive(first))
            guard try BufferGuardTests.permission(closed) == .none else { exit(1) }
            ChildOfTest.useUpMappings()
            expectPosted(pair.server.receive(second))
            guard try BufferGuardTests.permission(open) == .all else { exit(2) }
            guard try BufferGuardTests.permission(closed) == .all else { exit(3) }
            guard between.count == 4096 else { exit(4) }
            exit(77)
        }
        let errors = String(decoding: result.standardErrorContent, as: UTF8.self)
        #expect(errors.contains("the buffer guard lets go of a memory region of 262144 bytes: mprotect: ENOMEM"))
    }

    @Test("lets a program touch the buffer after its completion")
    func after() async {
        await #expect(processExitsWith: .exitCode(77)) {
            ChildOfTest.bound()
            let pair = try BufferGuardTests.pair()
            expectPosted(try pair.server.receive(pair.buffer()))
            expectPosted(try pair.client.post(.send, pair.buffer("over")))
            var sent = try unwrap(try pair.clientCompletion().takeBuffer())
            var received = try unwrap(try pair.serverCompletion().takeBuffer())
            guard received.text == "over" else { exit(1) }
            sent.store(UInt8(1))
            received.store(UInt8(2))
            exit(77)
        }
    }

    @Test("calls the handler that the program had before it, for its faults and for others")
    func handlerBefore() async throws {
        let result = try await #require(processExitsWith: .exitCode(77), observing: [\.standardErrorContent]) {
            ChildOfTest.bound()
            ChildOfTest.install { _ in _exit(77) }
            let pair = try BufferGuardTests.pair()
            let buffer = try pair.buffer()
            let address = buffer.address
            expectPosted(pair.server.receive(buffer))
            address.storeBytes(of: 0, as: UInt8.self)
        }
        #expect(String(decoding: result.standardErrorContent, as: UTF8.self).contains("swift-verbs: buffer 0x"))
        await #expect(processExitsWith: .exitCode(78)) {
            ChildOfTest.bound()
            ChildOfTest.install { _ in _exit(78) }
            let pair = try BufferGuardTests.pair()
            expectPosted(pair.server.receive(try pair.buffer()))
            ChildOfTest.foreignPage.storeBytes(of: 0, as: UInt8.self)
        }
    }

    @Test("leaves faults elsewhere, and signals that were sent, what they are")
    func faultsElsewhere() async throws {
        let fault = try await #require(processExitsWith: .signal(SIGSEGV), observing: [\.standardErrorContent]) {
            ChildOfTest.bound()
            let pair = try BufferGuardTests.pair()
            expectPosted(pair.server.receive(try pair.buffer()))
            ChildOfTest.foreignPage.storeBytes(of: 0, as: UInt8.self)
        }
        #expect(!String(decoding: fault.standardErrorContent, as: UTF8.self).contains("swift-verbs: buffer"))
        let sent = try await #require(processExitsWith: .signal(SIGSEGV), observing: [\.standardErrorContent]) {
            ChildOfTest.bound()
            let pair = try BufferGuardTests.pair()
            expectPosted(pair.server.receive(try pair.buffer()))
            kill(getpid(), SIGSEGV)
            while true { pause() }
        }
        #expect(!String(decoding: sent.standardErrorContent, as: UTF8.self).contains("swift-verbs: buffer"))
    }
}

/// What the processes of exit tests do.
enum ChildOfTest {
    /// How a failed precondition ends a process.
    #if arch(x86_64)
        static let trap = SIGILL
    #else
        static let trap = SIGTRAP
    #endif

    /// No child outlives a minute, leaves a core file, or has a handler of its signal that a runtime or sanitizer set: the one that
    /// prints backtraces faults under the thread sanitizer.
    static func bound() {
        alarm(60)
        for number in [SIGSEGV, trap] { signal(number, SIG_DFL) }
        var limit = rlimit(rlim_cur: 0, rlim_max: 0)
        setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit)
    }

    // Outside of the macro's closure, in which lines are counted otherwise.

    static func readReceive() throws {
        bound()
        let pair = try BufferGuardTests.pair()
        let buffer = try pair.buffer()
        let address = buffer.address
        say(address, pair.server.number, line: #line + 1)
        expectPosted(pair.server.receive(buffer, id: 18))
        print(address.load(fromByteOffset: 5, as: UInt8.self))
    }

    static func writeSend() throws {
        bound()
        let pair = try BufferGuardTests.pair()
        expectPosted(try pair.server.receive(pair.buffer()))
        let buffer = try pair.buffer("a message")
        let address = buffer.address
        say(address, pair.client.number, line: #line + 1)
        expectPosted(pair.client.post(.send, buffer, id: 3))
        // Reading does no harm.
        guard address.load(as: UInt8.self) == UInt8(ascii: "a") else { exit(1) }
        address.storeBytes(of: 0, as: UInt8.self)
    }

    static func install(_ handler: @escaping @convention(c) (Int32) -> Void) {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = handler
        sigaction(SIGSEGV, &action, nil)
    }

    /// A page that is mapped, and may only be read.
    static var foreignPage: UnsafeMutableRawPointer {
        mmap(nil, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    }

    /// Handles a fault by opening the page, as the program might: then the access is tried again.
    static func openPagesThatFault() {
        var action = sigaction()
        action.sa_flags = SA_SIGINFO
        action.__sigaction_handler.sa_sigaction = { _, info, _ in
            let address = UInt(bitPattern: info!.pointee._sifields._sigfault.si_addr)
            mprotect(UnsafeMutableRawPointer(bitPattern: address & ~4095), 4096, PROT_READ | PROT_WRITE)
        }
        sigaction(SIGSEGV, &action, nil)
    }

    static let mappingsMax: Int = {
        guard let stream = fopen("/proc/sys/vm/max_map_count", "r") else { return .max }
        defer { fclose(stream) }
        var line = [CChar](repeating: 0, count: 32)
        return fgets(&line, Int32(line.count), stream) == nil ? .max : atol(line)
    }()

    /// Makes mappings, neighbours with different protections, until there may be no more.
    static func useUpMappings() {
        for index in 0..<mappingsMax {
            let protection = index % 2 == 0 ? PROT_READ : PROT_NONE
            if mmap(nil, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED { return }
        }
    }

    /// Says what the test expects to be said.
    static func say(_ address: UnsafeMutableRawPointer, _ queuePair: UInt32, line: Int) {
        let text = "<\(UInt(bitPattern: address)) \(queuePair) \(line)>"
        _ = text.withCString { write(STDOUT_FILENO, $0, strlen($0)) }
    }

    struct Words {
        let number: UInt
        let queuePair: String
        let line: String

        init(_ output: [UInt8]) throws {
            let text = String(decoding: output, as: UTF8.self).drop { $0 != "<" }.dropFirst().prefix { $0 != ">" }
            let words = text.split(separator: " ")
            guard words.count == 3, let address = UInt(words[0]), let queuePair = UInt32(words[1]) else {
                throw TimeoutError(description: "the child said \(text)")
            }
            number = address
            self.queuePair = "0x" + String(queuePair, radix: 16)
            line = String(words[2])
        }

        var address: String { address(plus: 0) }
        func address(plus offset: UInt) -> String { "0x" + String(number + offset, radix: 16) }
    }
}

extension RegisteredBuffer {
    /// The first byte, whoever has the buffer.
    fileprivate var address: UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(mutating: withBytes { $0.withUnsafeBytes { $0.baseAddress! } })
    }
}
