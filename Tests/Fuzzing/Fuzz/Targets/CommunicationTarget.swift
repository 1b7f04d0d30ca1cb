// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

extension FuzzTarget {
    /// The communication management: messages that name what there is, applications that do anything, and a clock. Its seeds
    /// are the datagrams that the kernel sent.
    static let communication = FuzzTarget(
        name: "communication",
        seeds: { frames in frames.compactMap(managementDatagram).map { [0] + $0 } + frames.prefix(8).map { $0 } }
    ) { bytes in
        var input = FuzzInput(bytes)
        var world = CommunicationWorld()
        for _ in 0..<200 where !input.isAtEnd { world.step(&input) }
        world.finish()
    }

    private static func managementDatagram(_ frame: [UInt8]) -> [UInt8]? {
        guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes) else { return nil }
        let payload = Array(frame[outer.udpPayload])
        guard case .packet(let packet) = RoCEPacket.parse(payload.span.bytes), packet.bth.destination == .gsi else {
            return nil
        }
        return Array(payload[packet.payloadOffset..<packet.payloadOffset + packet.payloadByteCount])
    }
}

/// A communication management with an application that accepts, rejects and forgets as the input says.
private struct CommunicationWorld {
    private static let limit = 32
    private static let service = ServiceID(portSpace: .tcp, port: 7174)
    private static let extended = ServiceID(portSpace: .infiniBand, port: 7174)
    private static let datagrams = ServiceID(portSpace: .udp, port: 7174)

    private var management: CommunicationManagement
    private var generator = Numbers()
    private var now: UInt64 = 1
    /// Of communications that there are or were.
    private var ids: [CommunicationID] = [CommunicationID(rawValue: 0)]
    /// Events that may come once only.
    private var ended: Set<CommunicationID> = []
    private var established: Set<CommunicationID> = []
    private let local = GID(ipv4: 0x0A09_0202)

    /// Not random at all: what an input does must be the same each time.
    private struct Numbers: RandomNumberGenerator {
        var state: UInt64 = 1
        mutating func next() -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return state ^ state >> 29
        }
    }

    init() {
        var configuration = CommunicationConfiguration(slot: 1, nodeGUID: 5)
        configuration.communicationCountMax = Self.limit
        management = CommunicationManagement(configuration: configuration)
        try? management.listen(to: Self.service, on: nil, tag: 1, backlog: 8)
        try? management.listen(
            to: Self.extended, on: nil, tag: 3, transport: .extendedReliableConnected, backlog: 8)
        try? management.listen(to: Self.datagrams, on: nil, tag: 2, backlog: 8)
    }

    mutating func step(_ input: inout FuzzInput) {
        // What the application may not do now is refused, and changes nothing.
        switch input.below(12) {
        case 0: receiveRaw(input.take(ManagementDatagram.byteCount), from: input.below(3))
        case 1...4: receiveMutated(&input)
        case 5: now &+= UInt64(input.integer(UInt16.self)) << 16
        case 6: connect(&input)
        case 7: try? management.accept(pick(&input), Self.acceptance(&input), now: now)
        case 8: try? management.establish(pick(&input), now: now)
        case 9: try? management.disconnect(pick(&input), now: now)
        case 10: try? management.reject(pick(&input), now: now)
        default:
            if input.oneIn(2) {
                management.forget(pick(&input), now: now)
            } else {
                management.communicationEstablished(on: QPN(truncating: UInt32(input.byte() & 7)), now: now)
            }
        }
        management.advance(to: now)
        drain()
    }

    /// After a long time without a peer nothing is left but what the application has not decided or ended.
    mutating func finish() {
        for id in ids { management.forget(id, now: now) }
        for _ in 0..<40 {
            now &+= 200_000_000_000
            management.advance(to: now)
            drain()
        }
        require(management.communicationCount == 0, "\(management.communicationCount) communications are left")
        require(management.nextDeadline == nil, "a timer runs for nothing")
    }

    private mutating func drain() {
        require(management.communicationCount <= Self.limit, "more communications than the limit")
        while let message = management.nextMessage() {
            var bytes = [UInt8](repeating: 0, count: ManagementDatagram.byteCount)
            var span = bytes.mutableSpan
            var raw = span.mutableBytes
            message.datagram.emit(into: &raw)
            guard case .datagram(let again) = ManagementDatagram.parse(bytes.span.bytes) else {
                fatalError("what we send does not parse")
            }
            require(again.message.description == message.datagram.message.description, "another message")
        }
        while let event = management.nextEvent() { judge(event) }
    }

    private mutating func judge(_ event: CommunicationEvent) {
        switch event.kind {
        case .request, .serviceRequest:
            ids.append(event.id)
            if ids.count > 64 { forgetOldest() }
            management.setTag(9, of: event.id)
            ended.remove(event.id)
            established.remove(event.id)
        case .established, .reply:
            require(established.insert(event.id).inserted, "established twice")
            require(!ended.contains(event.id), "established after its end")
        case .rejected, .unreachable, .disconnected, .serviceReply:
            require(ended.insert(event.id).inserted, "ended twice")
        case .timeWaitEnded: ended.insert(event.id)
        }
    }

    private mutating func forgetOldest() {
        management.forget(ids.remove(at: 1), now: now)
    }

    private func pick(_ input: inout FuzzInput) -> CommunicationID { input.pick(ids) }

    private func peer(_ number: Int) -> ManagementPeer {
        ManagementPeer(address: GID(ipv4: 0x0A09_0201 + UInt32(number) * 16), local: local, localIndex: 0)
    }

    private mutating func receiveRaw(_ bytes: [UInt8], from number: Int) {
        guard case .datagram(let datagram) = ManagementDatagram.parse(bytes.span.bytes) else { return }
        management.receive(datagram, from: peer(number), now: now, using: &generator)
    }

    /// A message with the right frame, which names a communication of ours half of the time.
    private mutating func receiveMutated(_ input: inout FuzzInput) {
        var bytes = [UInt8](repeating: 0, count: ManagementDatagram.byteCount)
        bytes.replaceSubrange(0..<4, with: [1, 7, 2, 3])
        bytes[17] = 0x10 + UInt8(input.below(9))
        let body = input.take(input.below(64))
        bytes.replaceSubrange(24..<24 + body.count, with: body)
        for offset in [24, 28] where !input.oneIn(4) {
            let id = offset == 24 && bytes[17] != 0x18 ? UInt32(input.byte()) : pick(&input).rawValue
            withUnsafeBytes(of: id.bigEndian) { bytes.replaceSubrange(offset..<offset + 4, with: $0) }
        }
        let isRequest = bytes[17] == 0x10 || bytes[17] == 0x17
        if isRequest, !input.oneIn(8) { makeAcceptable(&bytes) }
        receiveRaw(bytes, from: input.below(2))
    }

    private func makeAcceptable(_ bytes: inout [UInt8]) {
        let isConnection = bytes[17] == 0x10
        let isExtended = isConnection && bytes[24 + 51] & 1 != 0
        let service = (isExtended ? Self.extended : isConnection ? Self.service : Self.datagrams).rawValue
        withUnsafeBytes(of: service.bigEndian) { bytes.replaceSubrange(32..<40, with: $0) }
        let addresses = ConnectionAddresses(sourcePort: 1, source: peer(0).address, destination: local).prepended(to: []
        )
        let start = 24 + (isConnection ? 140 : 16)
        bytes.replaceSubrange(start..<start + addresses.count, with: addresses)
        guard isConnection else { return }
        bytes[24 + 43] = bytes[24 + 43] & 0xF9 | (isExtended ? 3 << 1 : 0)
        if isExtended { bytes[24 + 51] = bytes[24 + 51] & 0xF8 | 1 }
        bytes[24 + 50] = 0x30
        bytes[24 + 96] = 0
        bytes[24 + 97] = 0
        for (offset, address) in [(24 + 56, peer(0).address), (24 + 72, local)] {
            withUnsafeBytes(of: (address.high.bigEndian, address.low.bigEndian)) {
                bytes.replaceSubrange(offset..<offset + 16, with: $0)
            }
        }
    }

    private mutating func connect(_ input: inout FuzzInput) {
        var options = ConnectOptions(
            serviceID: Self.service, peer: peer(input.below(2)), qpn: QPN(truncating: UInt32(input.byte())),
            pathMTU: .bytes1024)
        options.privateData = input.take(input.below(8))
        if input.oneIn(4) { options.transport = .extendedReliableConnected }
        guard let id = try? management.connect(options, tag: 7, now: now, using: &generator) else { return }
        ids.append(id)
        ended.remove(id)
        established.remove(id)
        if ids.count > 64 { forgetOldest() }
    }

    private static func acceptance(_ input: inout FuzzInput) -> AcceptOptions {
        AcceptOptions(
            qpn: QPN(truncating: UInt32(input.byte() & 7)), responderResources: input.byte(),
            initiatorDepth: input.byte())
    }
}
