// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    /// Connections to and from rdma-core's own examples: each is a cell of the table of interoperability.
    @Suite(
        "a connection with a stock program", .serialized, TestDevice.hasConnections,
        .enabled(if: StockProgram.canRun, "needs rdmacm-utils, and a device of the kernel for them"))
    struct ConnectionPeers {
        /// ucmatose takes ten messages of 100 bytes, answers with as many, and ends the connection.
        @Test("accepts ucmatose, which then takes and sends messages", arguments: AddressFamily.tested(.server))
        func servesUcmatose(family: AddressFamily) throws {
            try InteropTable.cell("ucmatose", .server, family, size: 100) {
                let listener = try Listener(at: family.own(), on: Device.named(TestDevice.name))
                let program = try StockProgram(
                    "ucmatose", ["-s", listener.address.host, "-p", "\(listener.address.port)", "-c", "1"])
                let incoming = try #require(try listener.nextRequest(timeout: TestDevice.patience))
                try #require(incoming.parameters.initiatorDepth == 1 && incoming.parameters.responderResources == 1)
                let side = try Equipment(incoming.context)
                let queuePair = try side.makeAnother()
                try incoming.prepare(queuePair)
                for _ in 0..<10 { expectPosted(queuePair.receive(try unwrap(side.pool.take()))) }
                let connection = try incoming.accept(queuePair, timeout: TestDevice.patience)
                try side.exchangeTen(on: connection.queuePair)
                // Both ends disconnect when they are done.
                try connection.disconnect(timeout: TestDevice.patience)
                try program.finish()
            }
        }

        /// As a server ucmatose sends first, and ends the connection when it has the answers.
        @Test("connects to ucmatose's server, which sends and takes messages", arguments: AddressFamily.tested(.client))
        func connectsToUcmatose(family: AddressFamily) throws {
            try InteropTable.cell("ucmatose", .client, family, size: 100) {
                let address = try family.peer(port: 7471)
                let program = try StockProgram("ucmatose", ["-b", address.host, "-p", "7471", "-c", "1"])
                let (connection, side) = try connect(to: address, receives: 10)
                try side.exchangeTen(on: connection.queuePair)
                try connection.disconnect(timeout: TestDevice.patience)
                try program.finish()
            }
        }

        /// A round of rping's server: it is told of memory, reads it, says so, is told of other memory, writes what it
        /// read there, and says so. It runs until the client ends the connection.
        @Test("connects to rping's server, which reads and writes our memory", arguments: AddressFamily.tested(.client))
        func connectsToRping(family: AddressFamily) throws {
            try InteropTable.cell("rping", .client, family, size: 64) {
                let address = try family.peer(port: 7174)
                let program = try StockProgram("rping", ["-s", "-a", address.host, "-p", "7174", "-C", "3"])
                let (connection, side) = try connect(to: address, receives: 2)
                let source = try side.domain.makeRegion(length: 64, access: .remote)
                let sink = try side.domain.makeRegion(length: 64, access: .remote)
                for round in 0..<3 {
                    // A string of C: the server writes as far as its end.
                    for index in 0..<63 { source.bytes[index] = UInt8(ascii: "a") + UInt8((index + round) % 26) }
                    for region in [source, sink] {
                        try side.tell(region.remote, on: connection.queuePair)
                    }
                    try #require(Array(sink.bytes) == Array(source.bytes))
                }
                try connection.disconnect(timeout: TestDevice.patience)
                try program.finish()
            }
        }

        /// The same with the parts exchanged; with -V the client compares what came back with what it sent.
        @Test("accepts rping, and reads and writes its memory", arguments: AddressFamily.tested(.server))
        func servesRping(family: AddressFamily) throws {
            try InteropTable.cell("rping", .server, family, size: 64) {
                let listener = try Listener(at: family.own(), on: Device.named(TestDevice.name))
                let program = try StockProgram(
                    "rping",
                    ["-c", "-a", listener.address.host, "-p", "\(listener.address.port)", "-C", "3", "-S", "64", "-V"])
                let incoming = try #require(try listener.nextRequest(timeout: TestDevice.patience))
                let side = try Equipment(incoming.context)
                let queuePair = try side.makeAnother()
                try incoming.prepare(queuePair)
                for _ in 0..<2 { expectPosted(queuePair.receive(try unwrap(side.pool.take()))) }
                let connection = try incoming.accept(queuePair, timeout: TestDevice.patience)
                for round in 0..<3 {
                    let source = try side.isTold(on: connection.queuePair)
                    var buffer = try unwrap(side.pool.take())
                    buffer.count = 64
                    expectPosted(connection.queuePair.post(.read(from: source), buffer))
                    let bytes = try unwrap(side.completion(of: .read).takeBuffer()).array
                    try #require(bytes.starts(with: Array("rdma-ping-\(round): ".utf8)))
                    try side.goAhead(on: connection.queuePair)
                    let sink = try side.isTold(on: connection.queuePair)
                    expectPosted(connection.queuePair.post(.write(to: sink), try side.buffer(bytes)))
                    _ = try side.completion(of: .write)
                    try side.goAhead(on: connection.queuePair)
                }
                try program.finish()
            }
        }

        /// cmtime connects all of its queue pairs before it ends the first connection.
        @Test(
            "accepts as many connections as cmtime makes at a time, and is told of the end of each",
            arguments: AddressFamily.tested(.server))
        func servesCmtime(family: AddressFamily) throws {
            let count = Self.connectionCount
            try InteropTable.cell("cmtime", .server, family, queuePairs: count) {
                let channel = try TestDevice.channel()
                let listener = try channel.makeIdentifier(.tcp)
                try listener.bind(to: family.own())
                try listener.listen(backlog: 64)
                let address = try #require(listener.localAddress)
                let program = try StockProgram(
                    "cmtime", ["-s", address.host, "-p", "\(address.port)", "-c", "\(count)"])
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
                    default: throw TimeoutError(description: "\(event.kind)")
                    }
                }
                try #require(established == count)
                try #require(sides.count == count)
                try program.finish()
            }
        }

        /// As a server cmtime accepts what comes, and answers each disconnection; it does not end by itself.
        @Test(
            "makes many connections to cmtime's server before it ends the first",
            arguments: AddressFamily.tested(.client))
        func connectsToCmtime(family: AddressFamily) throws {
            let count = Self.connectionCount
            try InteropTable.cell("cmtime", .client, family, queuePairs: count) {
                let address = try family.peer(port: 7471)
                let program = try StockProgram("cmtime", ["-b", address.host, "-p", "7471", "-c", "\(count)"])
                var connections: [(Connection, Equipment)] = []
                for _ in 0..<count { connections.append(try connect(to: address, receives: 0)) }
                try #require(program.isRunning && connections.allSatisfy { !$0.0.hasEnded })
                for (connection, _) in connections { try connection.disconnect(timeout: TestDevice.patience) }
            }
        }

        /// udaddy's server takes as many datagrams as it sends back.
        @Test(
            "finds udaddy's server by its service, and exchanges datagrams with it",
            arguments: AddressFamily.tested(.client))
        func asksUdaddy(family: AddressFamily) throws {
            try InteropTable.cell("udaddy", .client, family, transport: "UD", size: 64) {
                let address = try family.peer(port: 7174)
                let program = try StockProgram("udaddy", ["-b", address.host, "-c", "1", "-C", "5", "-S", "64"])
                let (side, service) = try ask(address)
                let destination = try service.destination(in: side.domain)
                for _ in 0..<5 { try side.postReceive() }
                for _ in 0..<5 { try side.sendNumbered(7, 64, to: destination) }
                try side.takeTen(receiving: 64)
                try program.finish()
            }
        }

        /// udaddy says in each datagram what its queue pair is; the service's Q_Key is that of both.
        @Test("is found by udaddy, and exchanges datagrams with it", arguments: AddressFamily.tested(.server))
        func servesUdaddy(family: AddressFamily) throws {
            try InteropTable.cell("udaddy", .server, family, transport: "UD", size: 64) {
                let channel = try TestDevice.channel()
                let listener = try channel.makeIdentifier(.udp)
                try listener.bind(to: family.own(port: 7174))
                try listener.listen()
                let program = try StockProgram(
                    "udaddy", ["-s", try family.own().host, "-c", "1", "-C", "5", "-S", "64"])
                let (passive, _) = try channel.request()
                let side = try Equipment(passive, .unreliableDatagram)
                for _ in 0..<5 { try side.postReceive() }
                try passive.accept(side.queuePair)
                var sender: UInt32 = 0
                for _ in 0..<5 {
                    let completion = try side.completion()
                    try #require(completion.status == .success && completion.byteCount == 64 + 40)
                    try #require(completion.immediate == completion.sourceQueuePair)
                    sender = completion.sourceQueuePair
                }
                let destination = try side.answer(to: family, queuePair: sender)
                for _ in 0..<5 {
                    try side.sendNumbered(7, 64, to: destination)
                    try #require(try side.completion().status == .success)
                }
                try program.finish()
            }
        }

        /// mckey sends its datagrams three seconds after it joined, each with the number of its queue pair.
        ///
        /// It posts them without asking for completions, and destroys the queue pair at once. rxe of Linux 6.1 sends within
        /// the post; later ones send in a work queue, and what has not left goes with the queue pair. There mckey is asked
        /// for so many that ten leave while it posts the others.
        @Test("takes the datagrams that mckey sends to a group")
        func receivesFromGroup() throws {
            try InteropTable.cell("mckey", .server, .ipv4, transport: "UD", size: 100) {
                let (member, group, side, endpoint) = try join()
                for _ in 0..<10 { try side.postReceive() }
                let program = try StockProgram(
                    "mckey",
                    [
                        "-m", Self.groupName, "-s", "-b", try AddressFamily.ipv4.peer().host, "-S", "100",
                        "-C", kernelRelease.hasPrefix("6.1.") ? "10" : "3000",
                    ])
                var senders: Set<UInt32> = []
                for _ in 0..<10 {
                    let completion = try side.completion()
                    try #require(completion.status == .success && completion.byteCount == 100 + 40)
                    try #require(completion.immediate == completion.sourceQueuePair)
                    senders.insert(completion.sourceQueuePair)
                }
                try #require(senders.count == 1)
                try program.finish()
                try side.queuePair.detach(from: endpoint)
                try member.leaveMulticast(group)
            }
        }

        /// mckey takes what comes from when it joined on, and ends when it has ten datagrams.
        @Test("sends datagrams to a group that mckey has joined")
        func sendsToGroup() throws {
            try InteropTable.cell("mckey", .client, .ipv4, transport: "UD", size: 100) {
                let (member, group, side, endpoint) = try join()
                let destination = try endpoint.destination(in: side.domain)
                let host = try AddressFamily.ipv4.peer().host
                let program = try StockProgram("mckey", ["-m", Self.groupName, "-b", host, "-C", "10", "-S", "100"])
                let end = ContinuousClock.now + TestDevice.patience
                while program.isRunning, ContinuousClock.now < end {
                    try side.sendNumbered(9, 100, to: destination)
                    try #require(try side.completion().status == .success)
                    usleep(50_000)
                }
                try program.finish()
                try side.queuePair.detach(from: endpoint)
                try member.leaveMulticast(group)
            }
        }

        /// The kernel's rdma_cm joins no IPv6 group where the GID is one of RoCE v2 (ENOTSUPP, 524), whatever the program.
        @Test("no program over the kernel joins an IPv6 group")
        func kernelJoinsNoIPv6Group() throws {
            for role in [InteropTable.Role.client, .server] where AddressFamily.tested(role).contains(.ipv6) {
                try InteropTable.cell(
                    "mckey", role, .ipv6, transport: "UD", size: 100, result: "peer: kernel-joins-ipv4"
                ) {
                    let sends = role == .server ? ["-s"] : []
                    let program = try StockProgram(
                        "mckey", ["-m", "ff0e::7:7", "-b", try AddressFamily.ipv6.peer().host] + sends)
                    try #require(try program.wait() != 0)
                    try #require(program.output.contains("failure joining: Unknown error 524"), "\(program.output)")
                }
            }
        }

        /// cmtime's connections at a time.
        private static let connectionCount = InteropTable.isFull ? 50 : 20
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
        private func connect(to address: SocketAddress, receives: Int) throws -> (Connection, Equipment) {
            let end = ContinuousClock.now + TestDevice.patience
            while true {
                let outgoing = try OutgoingConnection.resolve(address, on: Device.named(TestDevice.name))
                let side = try Equipment(outgoing.context)
                let queuePair = try side.makeAnother()
                try outgoing.prepare(queuePair)
                for _ in 0..<receives { expectPosted(queuePair.receive(try unwrap(side.pool.take()))) }
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

// What the programs say to each other.
extension Equipment {
    /// A queue pair to give away.
    fileprivate func makeAnother() throws -> QueuePair {
        let options = QueuePairOptions(sendDepth: 16, receiveDepth: 16)
        return try domain.makeQueuePair(.reliableConnected, options: options, completions: completions)
    }

    /// ucmatose's messages: ten of 100 bytes either way.
    fileprivate func exchangeTen(on queuePair: borrowing QueuePair) throws {
        for _ in 0..<10 { expectPosted(queuePair.post(.send, try buffer([UInt8](repeating: 1, count: 100)))) }
        for _ in 0..<20 {
            let completion = try completion()
            try #require(completion.status == .success)
            if completion.opcode == .receive { try #require(completion.byteCount == 100) }
        }
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
            try #require(completion.status == .success)
            guard completion.opcode == .receive else { continue }
            try #require(completion.byteCount == 16)
            expectPosted(queuePair.receive(try unwrap(pool.take())))
        }
    }

    /// Waits for rping's description of memory.
    fileprivate func isTold(on queuePair: borrowing QueuePair) throws -> RemoteMemory {
        let message = try unwrap(completion(of: .receive).takeBuffer()).array
        try #require(message.count == 16)
        expectPosted(queuePair.receive(try unwrap(pool.take())))
        func number(_ range: Range<Int>) -> UInt64 { message[range].reduce(0) { $0 << 8 | UInt64($1) } }
        return RemoteMemory(address: number(0..<8), rkey: UInt32(number(8..<12)), length: number(12..<16))
    }

    /// Sends rping's go-ahead, of which only the length counts. What the client does next may come before the completion.
    fileprivate func goAhead(on queuePair: borrowing QueuePair) throws {
        expectPosted(queuePair.post(.send, try buffer([UInt8](repeating: 0, count: 16))))
    }

    /// The completion of something else than a send, which must be next but for sends.
    fileprivate func completion(of opcode: WorkOpcode) throws -> Completion {
        while true {
            let completion = try completion()
            try #require(completion.status == .success)
            if completion.opcode == opcode { return completion }
            try #require(completion.opcode == .send)
        }
    }

    /// A datagram that says which queue pair it comes from, as those of udaddy and mckey do.
    fileprivate func sendNumbered(_ byte: UInt8, _ count: Int, to destination: DatagramDestination) throws {
        let buffer = try buffer([UInt8](repeating: byte, count: count))
        expectPosted(queuePair.post(.sendWithImmediate(queuePair.number), buffer, to: destination))
    }

    /// Five datagrams sent and five received.
    fileprivate func takeTen(receiving count: Int) throws {
        for _ in 0..<10 {
            let completion = try completion()
            try #require(completion.status == .success)
            if completion.opcode == .receive { try #require(completion.byteCount == count + 40) }
        }
    }

    /// The way to a queue pair of the programs, for a service of ours.
    fileprivate func answer(to family: AddressFamily, queuePair number: UInt32) throws -> DatagramDestination {
        let own = try family.own().address
        let gids = try domain.context.port(1).gids
        let choice = try #require(GIDChoice.best(of: gids.filter { $0.gid == own }, peer: own))
        let path = PathAttributes(gid: try family.peer().address, sourceGIDIndex: UInt8(choice.entry.index))
        let qkey = try #require(try queuePair.queryAttributes().qkey)
        return DatagramDestination(try domain.makeAddressHandle(path), queuePair: number, qkey: qkey)
    }
}
