// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Communication management")
struct CommunicationTests {
    private let seconds: UInt64 = 1_000_000_000

    /// A world in which end 1 has a request from end 0 to decide.
    private func asked(
        _ world: inout ManagementWorld, _ options: ConnectOptions? = nil
    ) throws -> (active: CommunicationID, passive: CommunicationID) {
        try world.listen()
        let active = try world.connect(options)
        world.run()
        let event = try #require(world.ends[1].events.last)
        guard case .request = event.kind else { throw Unexpected(what: "\(world.story(1))") }
        world.ends[1].management.setTag(5, of: event.id)
        return (active, event.id)
    }

    private struct Unexpected: Error { let what: String }

    private func accept(_ world: inout ManagementWorld, _ id: CommunicationID, qpn: UInt32 = 0x20) throws {
        let options = AcceptOptions(qpn: QPN(truncating: qpn), responderResources: 4, initiatorDepth: 2)
        try world.ends[1].management.accept(id, options, now: world.now)
    }

    private func connected(_ world: inout ManagementWorld) throws -> (active: CommunicationID, passive: CommunicationID)
    {
        let ids = try asked(&world)
        try accept(&world, ids.passive)
        world.run()
        try world.ends[0].management.establish(ids.active, now: world.now)
        world.run()
        return ids
    }

    @Test("a connection is asked for, accepted, established and ended, and both ends agree on its terms")
    func life() throws {
        var world = ManagementWorld()
        let (active, passive) = try connected(&world)
        #expect(world.story(0) == ["reply"])
        #expect(world.story(1) == ["request", "established"])
        #expect(world.sent.map(\.name) == ["REQ", "REP", "RTU"])
        let ours = try #require(world.ends[0].management.terms(of: active))
        let theirs = try #require(world.ends[1].management.terms(of: passive))
        #expect(ours.remoteQPN.rawValue == 0x20 && theirs.remoteQPN.rawValue == 0x10)
        // Where one starts to send is where the other expects.
        #expect(ours.sendPSN == theirs.receivePSN && ours.receivePSN == theirs.sendPSN)
        #expect(ours.sendPSN != ours.receivePSN)
        // What one may have outstanding the other takes.
        #expect(ours.readAtomicMax == 4 && theirs.destinationReadAtomicMax == 4)
        #expect(ours.destinationReadAtomicMax == 2 && theirs.readAtomicMax == 2)
        #expect(active.slot == 1 && passive.slot == 2)

        try world.ends[1].management.disconnect(passive, now: world.now)
        world.run(for: 5 * seconds)
        #expect(world.story(0) == ["reply", "disconnected", "timeWaitEnded"])
        #expect(world.story(1) == ["request", "established", "disconnected", "timeWaitEnded"])
        #expect(world.ends[0].management.communicationCount == 0)
        #expect(world.ends[1].management.communicationCount == 0)
        #expect(world.ends[0].management.nextDeadline == nil)
    }

    @Test(
        "each message that is lost is sent again, and what came twice is answered again",
        arguments: [
            "REQ", "REP", "RTU", "DREQ", "DREP",
        ])
    func lossOfOne(_ lost: String) throws {
        var world = ManagementWorld()
        var isLost = false
        world.fate = { _, name, _ in
            if name == lost, !isLost {
                isLost = true
                return []
            }
            return [1_000]
        }
        try world.listen()
        let active = try world.connect()
        world.run(for: 3 * seconds)
        let passive = try #require(world.ends[1].events.last).id
        world.ends[1].management.setTag(5, of: passive)
        try accept(&world, passive)
        while world.ends[0].events.isEmpty { world.run(for: seconds / 10) }
        try world.ends[0].management.establish(active, now: world.now)
        world.run(for: 3 * seconds)
        #expect(world.story(0) == ["reply"])
        #expect(world.story(1) == ["request", "established"])
        try world.ends[0].management.disconnect(active, now: world.now)
        world.run(for: 8 * seconds)
        #expect(isLost)
        #expect(world.story(0) == ["reply", "disconnected", "timeWaitEnded"])
        #expect(world.story(1) == ["request", "established", "disconnected", "timeWaitEnded"])
        #expect(world.count(lost, from: 0) + world.count(lost, from: 1) == 2)
    }

    @Test("where nobody listens it is asked again as long as wanted, and then rejected once")
    func nobodyListens() throws {
        var world = ManagementWorld()
        var options = world.options()
        let immediate = try world.connect(options)
        world.run(for: seconds)
        #expect(world.story(0) == ["rejected 8"])
        #expect(world.count("REQ", from: 0) == 1)

        options.asksAgainFor = seconds
        let patient = try world.connect(options)
        world.run(for: seconds / 2)
        #expect(world.story(0) == ["rejected 8"], "nothing is known yet")
        #expect(world.ends[0].management.terms(of: patient) == nil)
        let asked = world.count("REQ", from: 0)
        #expect(asked > 2)
        world.run(for: seconds)
        #expect(world.story(0) == ["rejected 8", "rejected 8"])
        #expect(world.count("REQ", from: 0) > asked)
        #expect(world.count("REQ", from: 0) == world.count("REJ", from: 1))
        #expect(world.ends[0].management.communicationCount == 0 && immediate != patient)
        world.run(for: 3 * seconds)
        #expect(world.ends[0].management.nextDeadline == nil)
    }

    @Test("who listens meanwhile is connected; a connection that is forgotten meanwhile asks no more")
    func listensLate() throws {
        var world = ManagementWorld()
        var options = world.options()
        options.asksAgainFor = seconds
        let forgotten = try world.connect(options)
        world.run(for: seconds / 10)
        world.ends[0].management.forget(forgotten, now: world.now)
        let asked = world.count("REQ", from: 0)
        world.run(for: seconds / 10)
        #expect(world.count("REQ", from: 0) == asked && world.ends[0].management.communicationCount == 0)

        let active = try world.connect(options)
        world.run(for: seconds / 10)
        #expect(world.ends[1].events.isEmpty)
        try world.listen()
        world.run(for: seconds / 10)
        let passive = try #require(world.ends[1].events.last).id
        world.ends[1].management.setTag(5, of: passive)
        try accept(&world, passive)
        world.run()
        try world.ends[0].management.establish(active, now: world.now)
        world.run()
        #expect(world.story(0) == ["reply"])
        #expect(world.story(1) == ["request", "established"])
    }

    @Test("data before the RTU makes a connection established, once")
    func dataBeforeReady() throws {
        var world = ManagementWorld()
        let ids = try asked(&world)
        try accept(&world, ids.passive)
        world.run()
        world.ends[1].management.communicationEstablished(on: QPN(truncating: 0x20), now: world.now)
        world.run()
        #expect(world.story(1) == ["request", "established"])
        try world.ends[0].management.establish(ids.active, now: world.now)
        world.ends[1].management.communicationEstablished(on: QPN(truncating: 0x20), now: world.now)
        world.run()
        #expect(world.story(1) == ["request", "established"])
    }

    @Test("a repeated REQ is answered by MRA while the application thinks, and the other side waits that long")
    func thinking() throws {
        var world = ManagementWorld()
        let ids = try asked(&world)
        world.run(for: 60 * seconds)
        #expect(world.count("REQ", from: 0) == 2, "one repetition, then the MRA")
        #expect(world.count("MRA", from: 1) == 1)
        #expect(world.story(0) == [])
        #expect(world.story(1) == ["request"], "a repeated request is no new one")
        try accept(&world, ids.passive)
        world.run()
        #expect(world.story(0) == ["reply"])
    }

    @Test("an RTU that is lost after the application thought for long is made up for in seconds")
    func lateReadyLost() throws {
        var world = ManagementWorld()
        let ids = try asked(&world)
        try accept(&world, ids.passive)
        world.run(for: 2 * seconds)
        #expect(world.count("MRA", from: 0) == 1, "the repeated REP is acknowledged")
        world.fate = { _, name, _ in name == "RTU" ? [] : [1_000] }
        try world.ends[0].management.establish(ids.active, now: world.now)
        world.run()
        world.fate = { _, _, _ in [1_000] }
        world.run(for: 8 * seconds)
        #expect(world.story(1) == ["request", "established"])
    }

    @Test("a peer that says nothing is unreachable after all repetitions, and is told so")
    func silence() throws {
        var world = ManagementWorld()
        world.fate = { _, _, _ in [] }
        _ = try world.connect()
        let interval = 2 * (4_096 << 16) + (4_096 << 18) as UInt64
        world.run(for: 16 * interval - 20_000_000)
        #expect(world.story(0) == [])
        world.run(for: 300_000_000)
        #expect(world.count("REQ", from: 0) == 16, "once, and fifteen times again")
        #expect(world.sent.last?.name == "REJ")
        #expect(world.story(0) == ["unreachable"])
        #expect(world.ends[0].management.communicationCount == 0)
    }

    @Test("a REP that is never answered ends the connection")
    func silenceAfterReply() throws {
        var world = ManagementWorld()
        let ids = try asked(&world)
        world.fate = { _, _, _ in [] }
        try accept(&world, ids.passive)
        world.run(for: 60 * seconds)
        #expect(world.count("REP", from: 1) == 16)
        #expect(world.story(1) == ["request", "unreachable", "timeWaitEnded"])
        #expect(world.ends[1].management.communicationCount == 0)
    }

    @Test("an application's refusal arrives with its private data")
    func refusal() throws {
        var world = ManagementWorld()
        let ids = try asked(&world)
        try world.ends[1].management.reject(ids.passive, privateData: [1, 2, 3], now: world.now)
        world.run()
        guard case .rejected(let reason, let data) = try #require(world.ends[0].events.last).kind else {
            Issue.record("\(world.story(0))")
            return
        }
        #expect(reason == .consumer)
        #expect(data.count == 148 && data.prefix(4) == [1, 2, 3, 0])
        #expect(world.ends[0].management.communicationCount == 0)
        #expect(world.ends[1].management.communicationCount == 0)
    }

    /// What a kernel listener answered to the same changes of a REQ.
    @Test(
        "requests that cannot be are refused with the kernel's reasons",
        arguments: [
            ("nobody listens", RejectionReason.invalidServiceID),
            ("another GID", .invalidGID),
            ("an alternate path", .invalidAlternatePath),
            ("UC", .consumer),
            ("another version of the addresses", .consumer),
            ("another destination in the addresses", .consumer),
            ("a longer path MTU", .invalidPathMTU),
        ] as [(String, RejectionReason)])
    func refusedRequests(_ change: String, _ reason: RejectionReason) throws {
        var world = ManagementWorld { $0.pathMTUMax = .bytes2048 }
        try world.listen()
        let options = world.options()
        var request = ConnectionRequest(
            localID: CommunicationID(rawValue: 77), serviceID: options.serviceID, nodeGUID: 1,
            qpn: QPN(truncating: 8), transport: .reliableConnected, startingPSN: PSN(truncating: 1),
            pathMTU: .bytes1024, localGID: world.ends[0].address, remoteGID: world.ends[1].address,
            privateData: options.privateData)
        switch change {
        case "nobody listens": request.serviceID = ServiceID(portSpace: .udp, port: 7471)
        case "another GID": request.remoteGID = GID(ipv4: 0x0A00_0009)
        case "an alternate path": request.hasAlternatePath = true
        case "UC": request.transport = .unreliableConnected
        case "another version of the addresses": request.privateData[0] = 1
        case "another destination in the addresses": request.privateData[35] ^= 1
        default: request.pathMTUCode = PathMTU.bytes4096.rawValue
        }
        world.deliver(.connectionRequest(request), to: 1)
        #expect(world.story(1) == [])
        #expect(world.refusals == [reason])
        #expect(world.ends[1].management.communicationCount == 0)
        #expect(world.ends[1].management.counters.requestsRefused == 1)
        // The same without the change is taken.
        request = ConnectionRequest(
            localID: CommunicationID(rawValue: 78), serviceID: options.serviceID, nodeGUID: 1,
            qpn: QPN(truncating: 8), transport: .reliableConnected, startingPSN: PSN(truncating: 1),
            pathMTU: .bytes2048, localGID: world.ends[0].address, remoteGID: world.ends[1].address,
            privateData: options.privateData)
        world.deliver(.connectionRequest(request), to: 1)
        #expect(world.story(1) == ["request"])
    }

    @Test("a refusal carries its reason to the other end")
    func refusalReason() throws {
        var world = ManagementWorld()
        _ = try world.connect()
        world.run()
        #expect(world.story(0) == ["rejected 8"])
    }

    @Test("a queue pair that is connected already is stale when it asks again, and the old connection ends")
    func stale() throws {
        var world = ManagementWorld()
        _ = try connected(&world)
        // The peer starts anew with the same queue pair, and knows nothing of the connection.
        world.ends[0].management = CommunicationManagement(
            configuration: CommunicationConfiguration(slot: 1, nodeGUID: 100))
        world.ends[0].events = []
        _ = try world.connect()
        world.run()
        #expect(world.story(0) == ["rejected 10"])
        #expect(world.story(1) == ["request", "established", "disconnected"])
        world.run(for: 5 * seconds)
        _ = try world.connect()
        world.run()
        #expect(world.story(1).last == "request", "after the time-wait it may")
    }

    @Test("a queue pair that is connected already is stale when it answers, and the old connection ends")
    func staleAnswer() throws {
        var world = ManagementWorld()
        _ = try connected(&world)
        // The peer starts anew, and the same queue pair answers another of ours.
        world.ends[1].management = CommunicationManagement(
            configuration: CommunicationConfiguration(slot: 2, nodeGUID: 101))
        world.ends[0].events = []
        world.ends[1].events = []
        func ask() throws {
            _ = try world.connect(world.options(qpn: 0x11))
            world.run()
            try accept(&world, try #require(world.ends[1].events.last).id)
            world.run()
        }
        try world.listen()
        try ask()
        #expect(world.story(0) == ["rejected 10", "disconnected"])
        #expect(world.story(1) == ["request", "rejected 10"])
        world.run(for: 5 * seconds)
        try ask()
        #expect(world.story(0).last == "reply", "after the time-wait it may")
    }

    @Test("requests beyond the backlog are dropped, and taken when they come again")
    func backlog() throws {
        var world = ManagementWorld()
        try world.listen(backlog: 1)
        _ = try world.connect(world.options(qpn: 0x10), tag: 1)
        _ = try world.connect(world.options(qpn: 0x11), tag: 2)
        world.run()
        #expect(world.story(1) == ["request"])
        #expect(world.ends[1].management.counters.requestsDropped == 1)
        try accept(&world, world.ends[1].events[0].id)
        world.run(for: 3 * seconds)
        #expect(world.story(1).count { $0 == "request" } == 2)
    }

    @Test("a source that asks too often is slowed down")
    func rateLimit() throws {
        var world = ManagementWorld {
            $0.requestBurstPerSource = 8
            $0.requestsPerSecondPerSource = 4
        }
        try world.listen(backlog: 1_000)
        for index in 0..<20 { _ = try world.connect(world.options(qpn: 0x100 + UInt32(index)), tag: 1) }
        world.run()
        #expect(world.story(1).count == 8)
        world.run(for: 10 * seconds)
        #expect(world.story(1).count == 20, "all in the end, by the protocol's own repetition")
    }

    @Test("messages from another address than the connection's change nothing")
    func otherAddress() throws {
        var world = ManagementWorld()
        let ids = try connected(&world)
        let end = DisconnectRequest(localID: ids.passive, remoteID: ids.active, remoteQPN: QPN(truncating: 0x10))
        let stranger = ManagementPeer(
            address: GID(ipv4: 0x0A00_0063), local: world.ends[0].address, localIndex: 0)
        world.ends[0].management.receive(
            ManagementDatagram(transactionID: 1, message: .disconnectRequest(end)), from: stranger, now: world.now,
            using: &world.generator)
        world.run()
        #expect(world.story(0) == ["reply"])
        #expect(world.ends[0].management.counters.unexpected == 1)
        // Nor does one from the right address that does not know the queue pair.
        var wrong = end
        wrong.remoteQPN = QPN(truncating: 0x11)
        world.deliver(.disconnectRequest(wrong), to: 0)
        #expect(world.story(0) == ["reply"])
        world.deliver(.disconnectRequest(end), to: 0)
        #expect(world.story(0) == ["reply", "disconnected"])
    }

    @Test("a DREQ for a connection that is not there is answered, a REP for one refused")
    func unknown() throws {
        var world = ManagementWorld()
        world.deliver(
            .disconnectRequest(
                DisconnectRequest(
                    localID: CommunicationID(rawValue: 5), remoteID: CommunicationID(rawValue: 6),
                    remoteQPN: QPN(truncating: 9))), to: 0)
        #expect(world.sent.map(\.name) == ["DREP"])
        world.deliver(
            .connectionReply(
                ConnectionReply(
                    localID: CommunicationID(rawValue: 5), remoteID: CommunicationID(rawValue: 6),
                    qpn: QPN(truncating: 9), startingPSN: PSN(truncating: 1), responderResources: 1, initiatorDepth: 1,
                    rnrRetry: 7, nodeGUID: 1, privateData: [])), to: 0)
        #expect(world.sent.map(\.name) == ["DREP", "REJ"])
    }

    @Test("a datagram service tells its queue pair, again if its answer is lost; or that nobody serves it")
    func service() throws {
        var world = ManagementWorld()
        let service = ServiceID(portSpace: .udp, port: 99)
        let data = world.options().privateData
        _ = try world.ends[0].management.requestService(
            service, of: world.peer(of: 0), privateData: data, tag: 1, now: world.now, using: &world.generator)
        world.run()
        #expect(world.story(0) == ["serviceReply 1"])
        try world.ends[1].management.listen(to: service, on: nil, tag: 7, backlog: 4)
        var isLost = false
        world.fate = { _, name, _ in
            if name == "SIDR_REP", !isLost {
                isLost = true
                return []
            }
            return [1_000]
        }
        _ = try world.ends[0].management.requestService(
            service, of: world.peer(of: 0), privateData: data, tag: 1, now: world.now, using: &world.generator)
        world.run()
        let asked = try #require(world.ends[1].events.last).id
        try world.ends[1].management.answerService(
            asked, status: .valid, qpn: QPN(truncating: 0x55), queueKey: .connectionManager, privateData: [9],
            now: world.now)
        world.run(for: 3 * seconds)
        guard case .serviceReply(let reply) = try #require(world.ends[0].events.last).kind else {
            Issue.record("\(world.story(0))")
            return
        }
        #expect(reply.status == .valid && reply.qpn.rawValue == 0x55 && reply.queueKey == .connectionManager)
        #expect(reply.privateData.first == 9)
        #expect(world.story(1) == ["serviceRequest"])
        world.run(for: 10 * seconds)
        #expect(world.ends[0].management.communicationCount == 0)
        #expect(world.ends[1].management.communicationCount == 0)
    }

    @Test("a datagram service that nobody has yet is asked for again as long as wanted")
    func serviceLater() throws {
        var world = ManagementWorld()
        let service = ServiceID(portSpace: .udp, port: 99)
        let data = world.options().privateData
        func ask(_ world: inout ManagementWorld) throws -> CommunicationID {
            try world.ends[0].management.requestService(
                service, of: world.peer(of: 0), privateData: data, asksAgainFor: seconds, tag: 1, now: world.now,
                using: &world.generator)
        }
        _ = try ask(&world)
        world.run(for: seconds / 2)
        #expect(world.story(0) == [], "nothing is known yet")
        #expect(world.count("SIDR_REQ", from: 0) > 2)
        world.run(for: seconds)
        #expect(world.story(0) == ["serviceReply 1"])
        #expect(world.count("SIDR_REQ", from: 0) == world.count("SIDR_REP", from: 1))
        #expect(world.ends[0].management.communicationCount == 0)

        let forgotten = try ask(&world)
        world.run(for: seconds / 10)
        world.ends[0].management.forget(forgotten, now: world.now)
        let asked = world.count("SIDR_REQ", from: 0)
        world.run(for: seconds / 10)
        #expect(world.count("SIDR_REQ", from: 0) == asked && world.ends[0].management.communicationCount == 0)

        _ = try ask(&world)
        world.run(for: seconds / 10)
        try world.ends[1].management.listen(to: service, on: nil, tag: 7, backlog: 4)
        world.run(for: seconds / 10)
        #expect(world.story(1) == ["serviceRequest"])
        // A refusal by the application is final.
        try world.ends[1].management.reject(try #require(world.ends[1].events.last).id, now: world.now)
        world.run(for: seconds / 10)
        #expect(world.story(0) == ["serviceReply 1", "serviceReply 2"])
        world.run(for: 10 * seconds)
        #expect(world.ends[0].management.communicationCount == 0 && world.ends[0].management.nextDeadline == nil)
        #expect(world.ends[1].management.communicationCount == 0)
    }

    @Test("what the application lets go of ends: requests are refused, connections closed")
    func lettingGo() throws {
        var world = ManagementWorld()
        let ids = try asked(&world)
        world.ends[1].management.forget(ids.passive, now: world.now)
        world.run()
        #expect(world.story(0) == ["rejected 28"])
        _ = try world.connect(world.options(qpn: 0x12))
        world.run()
        let passive = try #require(world.ends[1].events.last).id
        try accept(&world, passive)
        world.run()
        world.ends[1].management.forget(passive, now: world.now)
        world.run(for: 5 * seconds)
        #expect(world.story(0) == ["rejected 28", "reply", "disconnected", "timeWaitEnded"])
        #expect(world.ends[1].management.communicationCount == 0)
    }

    @Test("a request that is taken back counts against the backlog until the application decides")
    func withdrawn() throws {
        var world = ManagementWorld()
        try world.listen(backlog: 2)
        for qpn in 0..<5 as Range<UInt32> {
            let id = try world.connect(world.options(qpn: 0x10 + qpn))
            world.run()
            world.ends[0].management.forget(id, now: world.now)
            world.run()
        }
        #expect(world.story(1) == ["request", "request"], "the listener is told of no end that it did not see begin")
        #expect(world.ends[1].management.counters.requestsDropped == 3)
        for event in world.ends[1].events {
            world.ends[1].management.setTag(5, of: event.id)
            #expect(throws: EngineError.self) { try self.accept(&world, event.id) }
            world.ends[1].management.forget(event.id, now: world.now)
        }
        #expect(world.ends[1].management.communicationCount == 0)
        _ = try world.connect(world.options(qpn: 0x20))
        world.run()
        #expect(world.story(1).count == 3)
    }

    @Test("a connection is asked for in the port space of connections, a datagram service in that of datagrams")
    func portSpaces() throws {
        var world = ManagementWorld()
        let datagrams = ServiceID(portSpace: .udp, port: 7471)
        try world.listen()
        try world.ends[1].management.listen(to: datagrams, on: nil, tag: 8, backlog: 4)
        var options = world.options()
        options.serviceID = datagrams
        _ = try world.connect(options)
        _ = try world.ends[0].management.requestService(
            ManagementWorld.service, of: world.peer(of: 0), privateData: options.privateData, tag: 3, now: world.now,
            using: &world.generator)
        world.run()
        #expect(world.story(0).sorted() == ["rejected 8", "serviceReply 1"])
        #expect(world.story(1) == [])
    }

    @Test("each address of a wildcard listener has its own backlog, and each listener its own count")
    func backlogs() throws {
        var world = ManagementWorld()
        // As a wildcard listener of a device with two addresses: one tag, two places.
        let other = GID(ipv4: 0x0A00_0077)
        try world.ends[1].management.listen(to: ManagementWorld.service, on: other, tag: 7, backlog: 1)
        try world.ends[1].management.listen(to: ManagementWorld.service, on: world.ends[1].address, tag: 7, backlog: 1)
        _ = try world.connect()
        world.run()
        #expect(world.story(1) == ["request"])
        let request = ConnectionRequest(
            localID: CommunicationID(rawValue: 78), serviceID: ManagementWorld.service, nodeGUID: 1,
            qpn: QPN(truncating: 8), transport: .reliableConnected, startingPSN: PSN(truncating: 1),
            pathMTU: .bytes1024, localGID: world.ends[0].address, remoteGID: other,
            privateData: ConnectionAddresses(sourcePort: 1, source: world.ends[0].address, destination: other)
                .prepended(to: []))
        world.ends[1].management.receive(
            ManagementDatagram(transactionID: 1, message: .connectionRequest(request)),
            from: ManagementPeer(address: world.ends[0].address, local: other, localIndex: 1), now: world.now,
            using: &world.generator)
        world.run()
        #expect(world.story(1) == ["request", "request"])
        // The listener goes, another takes its tag: what the old one was asked does not count for the new one.
        for address in [other, world.ends[1].address] {
            world.ends[1].management.stopListening(to: ManagementWorld.service, on: address, tag: 7)
        }
        try world.listen(backlog: 1, tag: 7)
        for event in world.ends[1].events { world.ends[1].management.forget(event.id, now: world.now) }
        for qpn in 0..<3 as Range<UInt32> { _ = try world.connect(world.options(qpn: 0x30 + qpn)) }
        world.run()
        #expect(world.story(1).count == 3)
    }

    @Test("the kernel's own REQ is understood and answered")
    func kernelRequest() throws {
        let frames: [ManagementDatagram] = try capturedPackets("rping.pcap").compactMap { captured in
            guard captured.packet.bth.destination == .gsi,
                case .datagram(let datagram) = ManagementDatagram.parse(captured.payload.span.bytes)
            else { return nil }
            return datagram
        }
        let client = try #require(GID("10.9.2.1"))
        let server = try #require(GID("10.9.2.2"))
        var management = CommunicationManagement(configuration: CommunicationConfiguration(slot: 1, nodeGUID: 2))
        var generator = SeededGenerator(seed: 1)
        try management.listen(to: ServiceID(portSpace: .tcp, port: 7174), on: server, tag: 1, backlog: 1)
        let peer = ManagementPeer(address: client, local: server, localIndex: 0)
        let first = try #require(frames.first)
        management.receive(first, from: peer, now: 0, using: &generator)
        let next = management.nextEvent()
        let event = try #require(next)
        guard case .request(let request, let addresses, _) = event.kind else {
            Issue.record("\(event)")
            return
        }
        #expect(addresses?.source == client && addresses?.destination == server)
        #expect(request.qpn.rawValue == 0x20)
        // What the kernel's server sent next: a REP to the id of the REQ.
        guard case .connectionReply(let kernelReply) = frames[1].message else {
            Issue.record("no REP")
            return
        }
        try management.accept(
            event.id, AcceptOptions(qpn: kernelReply.qpn, responderResources: 1, initiatorDepth: 1), now: 0)
        let answer = management.nextMessage()
        guard case .connectionReply(let ours) = try #require(answer).datagram.message else {
            Issue.record("no REP")
            return
        }
        #expect(ours.remoteID == kernelReply.remoteID)
        #expect(ours.responderResources == kernelReply.responderResources)
        #expect(ours.initiatorDepth == kernelReply.initiatorDepth)
        #expect(ours.ackDelay == kernelReply.ackDelay && ours.rnrRetry == kernelReply.rnrRetry)
    }
}
