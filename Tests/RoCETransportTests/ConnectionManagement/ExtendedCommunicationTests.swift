// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Communication management of XRC")
struct ExtendedCommunicationTests {
    private let seconds: UInt64 = 1_000_000_000
    private static let service = ServiceID(portSpace: .infiniBand, port: 7471)

    private func listen(_ world: inout ManagementWorld) throws {
        try world.ends[1].management.listen(
            to: Self.service, on: nil, tag: 7, transport: .extendedReliableConnected, backlog: 16)
    }

    private func options(_ world: ManagementWorld, qpn: UInt32 = 0x10) -> ConnectOptions {
        var options = world.options(qpn: qpn)
        options.serviceID = Self.service
        options.transport = .extendedReliableConnected
        options.retryCount = 5
        options.rnrRetry = 6
        options.usesSharedReceives = true
        return options
    }

    private func accept(_ world: inout ManagementWorld, _ id: CommunicationID, qpn: UInt32 = 0x20) throws {
        world.ends[1].management.setTag(5, of: id)
        var options = AcceptOptions(qpn: QPN(truncating: qpn), responderResources: 4, initiatorDepth: 2)
        options.rnrRetry = 3
        try world.ends[1].management.accept(id, options, now: world.now)
        world.run()
    }

    private func connected(
        _ world: inout ManagementWorld, qpn: UInt32 = 0x10, target: UInt32 = 0x20
    ) throws -> (active: CommunicationID, passive: CommunicationID) {
        let active = try world.connect(options(world, qpn: qpn))
        world.run()
        let passive = try #require(world.ends[1].events.last).id
        try accept(&world, passive, qpn: target)
        try world.ends[0].management.establish(active, now: world.now)
        world.run()
        return (active, passive)
    }

    @Test("an initiator and a target say what the kernel's do, and agree on their terms")
    func life() throws {
        var world = ManagementWorld()
        try listen(&world)
        let ids = try connected(&world)
        #expect(world.story(0) == ["reply"])
        #expect(world.story(1) == ["request", "established"])
        guard case .request(let request, let addresses, _) = world.ends[1].events[0].kind,
            case .reply(let reply) = world.ends[0].events[0].kind
        else {
            Issue.record("\(world.story(0)), \(world.story(1))")
            return
        }
        // cm_format_req: what is of requests to an initiator is zero, and so are the retries.
        #expect(request.transport == .extendedReliableConnected && request.qpn.rawValue == 0x10)
        #expect(request.initiatorDepth == 5 && request.responderResources == 0)
        #expect(request.retryCount == 0 && request.rnrRetry == 0 && !request.usesSharedReceives)
        #expect(addresses?.destination == world.ends[1].address)
        // cm_format_rep: no requests by a target, and always shared receives.
        #expect(reply.qpn.rawValue == 0 && reply.eecn.rawValue == 0x20)
        #expect(reply.initiatorDepth == 0 && reply.responderResources == 4)
        #expect(reply.rnrRetry == 3 && reply.usesSharedReceives)

        let ours = try #require(world.ends[0].management.terms(of: ids.active))
        let theirs = try #require(world.ends[1].management.terms(of: ids.passive))
        #expect(ours.remoteQPN.rawValue == 0x20 && theirs.remoteQPN.rawValue == 0x10)
        #expect(ours.sendPSN == theirs.receivePSN && ours.receivePSN == theirs.sendPSN)
        #expect(ours.readAtomicMax == 4 && theirs.destinationReadAtomicMax == 4)
        #expect(ours.retryCount == 5, "its own, though it was not sent")
        #expect(ours.rnrRetry == 3, "what the target says")

        try world.ends[0].management.disconnect(ids.active, now: world.now)
        world.run(for: 5 * seconds)
        #expect(world.story(0) == ["reply", "disconnected", "timeWaitEnded"])
        #expect(world.story(1) == ["request", "established", "disconnected", "timeWaitEnded"])
        #expect(world.ends.allSatisfy { $0.management.communicationCount == 0 })
    }

    @Test("targets of one node are told apart, and one that answers twice has lost its first connection, which ends")
    func targets() throws {
        var world = ManagementWorld()
        try listen(&world)
        _ = try connected(&world, qpn: 0x10, target: 0x20)
        let second = try connected(&world, qpn: 0x11, target: 0x21).active
        #expect(world.story(0) == ["reply", "reply"])
        let third = try world.connect(options(world, qpn: 0x12))
        world.run()
        try accept(&world, try #require(world.ends[1].events.last).id, qpn: 0x21)
        #expect(world.ends[0].events.first { $0.kind.name == "rejected 10" }?.id == third)
        #expect(world.story(0) == ["reply", "reply", "rejected 10", "disconnected"])
        #expect(world.ends[0].events.last?.id == second)
    }

    @Test(
        "who listens for another transport, or in another way, refuses as the kernel does",
        arguments: [
            ("XRC where RC is listened for", RejectionReason.consumer), ("RC where XRC is listened for", .consumer),
            ("another extended transport", .consumer), ("no addresses", .consumer),
            ("another port space", .invalidServiceID),
        ])
    func refusals(_ what: String, _ reason: RejectionReason) throws {
        var world = ManagementWorld()
        try listen(&world)
        try world.listen()
        var options = options(world)
        switch what {
        case "XRC where RC is listened for": options.serviceID = ManagementWorld.service
        case "RC where XRC is listened for": options.transport = .reliableConnected
        case "another extended transport": options.transport = .init(rawValue: 2 << 2 | 3)
        case "no addresses": options.privateData = [1, 2, 3]
        default: options.serviceID = ServiceID(portSpace: .udp, port: 7471)
        }
        _ = try world.connect(options)
        world.run()
        #expect(world.story(0) == ["rejected \(reason.rawValue)"])
        #expect(world.story(1) == [])
        #expect(world.ends.allSatisfy { $0.management.communicationCount == 0 })
    }

    @Test("a service of connections in the port space of InfiniBand is no datagram service")
    func noDatagrams() throws {
        var world = ManagementWorld()
        try listen(&world)
        _ = try world.ends[0].management.requestService(
            Self.service, of: world.peer(of: 0), privateData: world.options().privateData, tag: 3, now: world.now,
            using: &world.generator)
        world.run()
        #expect(world.story(0) == ["serviceReply 1"] && world.story(1) == [])
    }

    @Test("a connection goes on when the end of its target is let go of, and its initiator may end it later")
    func forgottenTarget() throws {
        var world = ManagementWorld()
        try listen(&world)
        let ids = try connected(&world)
        world.ends[1].management.forget(ids.passive, now: world.now)
        world.run(for: 5 * seconds)
        #expect(world.story(0) == ["reply"] && world.count("DREQ", from: 1) == 0)
        #expect(world.ends[1].management.communicationCount == 0)
        try world.ends[0].management.disconnect(ids.active, now: world.now)
        world.run(for: 5 * seconds)
        #expect(world.story(0) == ["reply", "disconnected", "timeWaitEnded"])
        #expect(world.count("DREP", from: 1) == 1)

        // An initiator that is let go of ends its connection.
        let others = try connected(&world, qpn: 0x11, target: 0x21)
        world.ends[0].management.forget(others.active, now: world.now)
        world.run(for: 5 * seconds)
        #expect(world.story(1).suffix(2) == ["disconnected", "timeWaitEnded"])
    }
}
