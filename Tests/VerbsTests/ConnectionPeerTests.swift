// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    /// Connections to and from rdma-core's own examples.
    @Suite(
        "a connection with a stock program", .serialized, TestDevice.hasConnections,
        .enabled(if: StockProgram.canRun, "needs rdmacm-utils, and a device of the kernel for them"))
    struct ConnectionPeers {
        /// ucmatose takes ten messages of 100 bytes, answers with as many, and ends the connection.
        @Test("accepts ucmatose, which then takes and sends messages")
        func ucmatose() throws {
            let listener = try Listener(at: TestDevice.address(), on: Device.named(TestDevice.name))
            let host = String(listener.address.description.prefix { $0 != ":" })
            let program = try StockProgram("ucmatose", ["-s", host, "-p", "\(listener.address.port)", "-c", "1"])
            let incoming = try #require(try listener.nextRequest(timeout: TestDevice.patience))
            #expect(incoming.parameters.initiatorDepth == 1 && incoming.parameters.responderResources == 1)
            let side = try Equipment(incoming.context)
            let queuePair = try side.makeAnother()
            try incoming.prepare(queuePair)
            for _ in 0..<10 { expectPosted(queuePair.receive(try unwrap(side.pool.take()))) }
            let connection = try incoming.accept(queuePair, timeout: TestDevice.patience)
            for _ in 0..<10 {
                expectPosted(connection.queuePair.post(.send, try side.buffer([UInt8](repeating: 1, count: 100))))
            }
            for _ in 0..<20 {
                let completion = try side.completion()
                #expect(completion.status == .success)
                if completion.opcode == .receive { #expect(completion.byteCount == 100) }
            }
            // Both ends disconnect when they are done.
            try connection.disconnect(timeout: TestDevice.patience)
            #expect(try program.wait() == 0)
        }

        /// A round of rping's server: it is told of memory, reads it, says so, is told of other memory, writes what it
        /// read there, and says so. It runs until the client ends the connection.
        @Test("connects to rping's server, which reads and writes our memory")
        func rping() throws {
            let address = try StockProgram.address(port: 7174)
            let host = String(address.description.prefix { $0 != ":" })
            let program = try StockProgram("rping", ["-s", "-a", host, "-p", "7174", "-C", "3"])
            let (connection, side) = try connect(to: address)
            let source = try side.domain.makeRegion(length: 64, access: .remote)
            let sink = try side.domain.makeRegion(length: 64, access: .remote)
            for round in 0..<3 {
                // A string of C: the server writes as far as its end.
                for index in 0..<63 { source.bytes[index] = UInt8(ascii: "a") + UInt8((index + round) % 26) }
                for region in [source, sink] {
                    try side.tell(region.remote, on: connection.queuePair)
                }
                #expect(Array(sink.bytes) == Array(source.bytes))
            }
            try connection.disconnect(timeout: TestDevice.patience)
            #expect(try program.wait() == 0)
        }

        /// cmtime connects all of its queue pairs before it ends the first connection.
        @Test("accepts as many connections as cmtime makes at a time, and is told of the end of each")
        func cmtime() throws {
            let count = 50
            let channel = try TestDevice.channel()
            let listener = try channel.makeIdentifier(.tcp)
            try listener.bind(to: TestDevice.address())
            try listener.listen(backlog: 64)
            let address = try #require(listener.localAddress)
            let host = String(address.description.prefix { $0 != ":" })
            let program = try StockProgram("cmtime", ["-s", host, "-p", "\(address.port)", "-c", "\(count)"])
            var sides: [ObjectIdentifier: (ConnectionIdentifier, Equipment)] = [:]
            var (established, disconnected) = (0, 0)
            while disconnected < count {
                let event = try channel.event()
                let identifier = event.identifier
                switch event.kind {
                case .connectRequest(let request, _):
                    let side = try Equipment(request)
                    sides[ObjectIdentifier(request)] = (request, side)
                    try request.activate(side.queuePair)
                    try request.accept(side.queuePair)
                case .established: established += 1
                case .disconnected:
                    disconnected += 1
                    try identifier.disconnect()
                case .timeWaitExit: break
                default: Issue.record("\(event.kind)")
                }
            }
            #expect(established == count)
            #expect(sides.count == count)
            #expect(try program.wait() == 0)
        }

        /// udaddy's server takes as many datagrams as it sends back.
        @Test("finds udaddy's server by its service, and exchanges datagrams with it")
        func udaddy() throws {
            let address = try StockProgram.address(port: 7174)
            let host = String(address.description.prefix { $0 != ":" })
            let program = try StockProgram("udaddy", ["-b", host, "-c", "1", "-C", "5", "-S", "64"])
            let (side, service) = try ask(address)
            let destination = try service.destination(in: side.domain)
            for _ in 0..<5 { try side.postReceive() }
            for _ in 0..<5 {
                expectPosted(
                    side.queuePair.post(
                        .sendWithImmediate(side.queuePair.number),
                        try side.buffer([UInt8](repeating: 7, count: 64)), to: destination))
            }
            for _ in 0..<10 {
                let completion = try side.completion()
                #expect(completion.status == .success)
                if completion.opcode == .receive { #expect(completion.byteCount == 64 + 40) }
            }
            #expect(try program.wait() == 0)
        }

        /// mckey sends its datagrams three seconds after it joined, each with the number of its queue pair.
        @Test(
            "takes the datagrams that mckey sends to a group",
            .enabled(
                if: TestDevice.name.hasPrefix("soft") || kernelRelease.hasPrefix("6.1."),
                "on rxe of Linux 6.12 hardly any arrive at another queue pair of the same device"))
        func receivesFromGroup() throws {
            let (member, group, side, endpoint) = try join()
            for _ in 0..<10 { try side.postReceive() }
            let host = try String(StockProgram.address(port: 1).description.prefix { $0 != ":" })
            let program = try StockProgram(
                "mckey", ["-m", Self.groupName, "-s", "-b", host, "-C", "10", "-S", "100"])
            var senders: Set<UInt32> = []
            // rxe of Linux 6.1 sends all ten. Of those that rxe of 6.12 says it has sent, only the first is on the wire.
            for _ in 0..<(kernelRelease.hasPrefix("6.1.") ? 10 : 1) {
                let completion = try side.completion()
                #expect(completion.status == .success && completion.byteCount == 100 + 40)
                #expect(completion.immediate == completion.sourceQueuePair)
                senders.insert(completion.sourceQueuePair)
            }
            #expect(senders.count == 1)
            #expect(try program.wait() == 0)
            try side.queuePair.detach(from: endpoint)
            try member.leaveMulticast(group)
        }

        /// mckey takes what comes from when it joined on, and ends when it has ten datagrams.
        @Test("sends datagrams to a group that mckey has joined")
        func sendsToGroup() throws {
            let (member, group, side, endpoint) = try join()
            let destination = try endpoint.destination(in: side.domain)
            let host = try String(StockProgram.address(port: 1).description.prefix { $0 != ":" })
            let program = try StockProgram("mckey", ["-m", Self.groupName, "-b", host, "-C", "10", "-S", "100"])
            let end = ContinuousClock.now + TestDevice.patience
            while program.isRunning, ContinuousClock.now < end {
                let buffer = try side.buffer([UInt8](repeating: 9, count: 100))
                expectPosted(side.queuePair.post(.sendWithImmediate(side.queuePair.number), buffer, to: destination))
                #expect(try side.completion().status == .success)
                usleep(50_000)
            }
            #expect(try program.wait() == 0)
            try side.queuePair.detach(from: endpoint)
            try member.leaveMulticast(group)
        }

        private static let groupName = "239.7.7.7"

        private func join() throws -> (ConnectionIdentifier, SocketAddress, Equipment, DatagramEndpoint) {
            let channel = try TestDevice.channel()
            let identifier = try channel.makeIdentifier(.udp)
            try identifier.bind(to: TestDevice.address())
            let side = try Equipment(identifier, .unreliableDatagram)
            let group = try #require(SocketAddress(Self.groupName, port: 0))
            try identifier.joinMulticast(group)
            guard case .multicastJoined(_, let endpoint) = try channel.event().kind else {
                throw TimeoutError(description: "not joined")
            }
            try side.queuePair.attach(to: endpoint)
            return (identifier, group, side, endpoint)
        }

        /// The server may still be starting: asks until it answers.
        private func ask(_ address: SocketAddress) throws -> (Equipment, DatagramEndpoint) {
            let end = ContinuousClock.now + TestDevice.patience
            while true {
                let channel = try TestDevice.channel()
                let client = try channel.makeIdentifier(.udp)
                try Introduction.resolve(client, address)
                let side = try Equipment(client, .unreliableDatagram)
                try client.requestService()
                let event = try channel.event()
                if case .datagramEstablished(let service) = event.kind { return (side, service) }
                guard case .unreachable(.datagramStatus(1), _) = event.kind, ContinuousClock.now < end else {
                    throw TimeoutError(description: "\(event.kind)")
                }
                usleep(50_000)
            }
        }

        /// The server may still be starting: asks until somebody listens.
        private func connect(to address: SocketAddress) throws -> (Connection, Equipment) {
            let end = ContinuousClock.now + TestDevice.patience
            while true {
                let outgoing = try OutgoingConnection.resolve(address, on: Device.named(TestDevice.name))
                let side = try Equipment(outgoing.context)
                let queuePair = try side.makeAnother()
                try outgoing.prepare(queuePair)
                for _ in 0..<2 { expectPosted(queuePair.receive(try unwrap(side.pool.take()))) }
                do throws(VerbsError) {
                    return (try outgoing.connect(queuePair, timeout: TestDevice.patience), side)
                } catch {
                    guard outgoing.refusal?.reason == .invalidServiceID, ContinuousClock.now < end else { throw error }
                    usleep(50_000)
                }
            }
        }
    }
}

extension Equipment {
    /// A queue pair to give away.
    fileprivate func makeAnother() throws -> QueuePair {
        let options = QueuePairOptions(sendDepth: 16, receiveDepth: 16)
        return try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
    }

    /// Sends rping's description of memory, and waits for its go-ahead.
    fileprivate func tell(_ memory: RemoteMemory, on queuePair: borrowing QueuePair) throws {
        var message: [UInt8] = []
        for shift in stride(from: 56, through: 0, by: -8) {
            message.append(UInt8(memory.address >> UInt64(shift) & 0xFF))
        }
        for value in [memory.rkey, UInt32(memory.length)] {
            for shift in stride(from: 24, through: 0, by: -8) { message.append(UInt8(value >> UInt32(shift) & 0xFF)) }
        }
        expectPosted(queuePair.post(.send, try buffer(message)))
        for _ in 0..<2 {
            let completion = try completion()
            #expect(completion.status == .success)
            guard completion.opcode == .receive else { continue }
            #expect(completion.byteCount == 16)
            expectPosted(queuePair.receive(try unwrap(pool.take())))
        }
    }
}

/// A program of rdma-core that runs beside the test, and ends with it at the latest. It runs on the device of the test, or,
/// if `VERBS_TEST_PEER` is the address of another, in the first network namespace, where that device is.
private final class StockProgram {
    private static let folder = "/usr/bin/"
    private var identifier: pid_t

    private static let peer = getenv("VERBS_TEST_PEER").flatMap { GID(String(cString: $0)) }

    static var canRun: Bool {
        (TestDevice.isRXE || peer != nil)
            && ["rping", "ucmatose", "mckey"].allSatisfy { access(folder + $0, X_OK) == 0 }
    }

    /// Where a program listens.
    static func address(port: UInt16) throws -> SocketAddress {
        try peer.map { SocketAddress($0, port: port) } ?? TestDevice.address(port: port)
    }

    init(_ name: String, _ arguments: [String]) throws {
        identifier = 0
        let elsewhere = Self.peer == nil ? [] : ["nsenter", "-t", "1", "-n"]
        let command = elsewhere + [Self.folder + name] + arguments
        var vector: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) }
        vector.append(nil)
        defer { vector.forEach { free($0) } }
        let status = posix_spawnp(&identifier, command[0], nil, nil, vector, environ)
        if status != 0 {
            throw TimeoutError(description: "\(name) does not start: \(String(cString: strerror(status)))")
        }
    }

    deinit {
        guard identifier > 0 else { return }
        kill(identifier, SIGKILL)
        waitpid(identifier, nil, 0)
    }

    /// Whether it has not ended yet.
    var isRunning: Bool {
        var information = siginfo_t()
        // Leaves it to be waited for.
        return waitid(P_PID, id_t(identifier), &information, WEXITED | WNOHANG | WNOWAIT) == 0
            && information._sifields._sigchld.si_pid == 0
    }

    /// The exit status.
    func wait() throws -> Int32 {
        let end = ContinuousClock.now + TestDevice.patience
        while ContinuousClock.now < end {
            var status: Int32 = 0
            if waitpid(identifier, &status, WNOHANG) == identifier {
                identifier = 0
                return status & 0x7F == 0 ? status >> 8 & 0xFF : -1
            }
            usleep(10_000)
        }
        throw TimeoutError(description: "the program does not end")
    }
}

private var kernelRelease: String {
    var names = utsname()
    uname(&names)
    return withUnsafeBytes(of: names.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}
