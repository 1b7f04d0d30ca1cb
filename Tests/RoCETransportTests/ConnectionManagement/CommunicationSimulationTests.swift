// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire
import Testing

@Suite("Communication management over a bad network")
struct CommunicationSimulationTests {
    /// Loss, duplication and delay (which reorders), drawn from the seed; every connection, of RC or XRC, is set up and ended by a random
    /// end, and each application sees one story of each.
    @Test("every connection is set up and ended once", arguments: 0..<200 as Range<UInt64>)
    func seeds(_ seed: UInt64) throws {
        var world = ManagementWorld(seed: seed)
        let loss = Double.random(in: 0...0.3, using: &world.generator)
        let duplication = Double.random(in: 0...0.3, using: &world.generator)
        let count = Int.random(in: 1...12, using: &world.generator)
        let options: Comment = "seed \(seed): loss \(loss), duplication \(duplication), \(count) connections"
        world.fate = { _, _, generator in
            guard Double.random(in: 0...1, using: &generator) >= loss else { return [] }
            let copies = Double.random(in: 0...1, using: &generator) < duplication ? 2 : 1
            return (0..<copies).map { _ in UInt64.random(in: 1_000...50_000_000, using: &generator) }
        }
        try world.listen(backlog: 4)
        var active: [CommunicationID] = []
        let extended = ServiceID(portSpace: .infiniBand, port: 7471)
        try world.ends[1].management.listen(
            to: extended, on: nil, tag: 7, transport: .extendedReliableConnected, backlog: 4)
        for index in 0..<count {
            var connecting = world.options(qpn: 0x100 + UInt32(index))
            if Bool.random(using: &world.generator) {
                (connecting.serviceID, connecting.transport) = (extended, .extendedReliableConnected)
            }
            active.append(try world.connect(connecting, tag: 3))
        }

        var seen = [0, 0]
        var passive: [UInt32: CommunicationID] = [:]
        var established: [CommunicationID] = []
        var steps = 0
        while established.count < count, steps < 2_000 {
            steps += 1
            world.run(for: 100_000_000)
            while seen[1] < world.ends[1].events.count {
                let event = world.ends[1].events[seen[1]]
                seen[1] += 1
                switch event.kind {
                case .request(let request, _, _):
                    passive[request.qpn.rawValue] = event.id
                    world.ends[1].management.setTag(9, of: event.id)
                    let accepting = AcceptOptions(
                        qpn: QPN(truncating: 0x200 + UInt32(seen[1])), responderResources: 1, initiatorDepth: 1)
                    try world.ends[1].management.accept(event.id, accepting, now: world.now)
                case .established: established.append(event.id)
                default: Issue.record("\(event.kind.name), \(options)")
                }
            }
            while seen[0] < world.ends[0].events.count {
                let event = world.ends[0].events[seen[0]]
                seen[0] += 1
                guard case .reply = event.kind else {
                    Issue.record("\(event.kind.name), \(options)")
                    continue
                }
                try world.ends[0].management.establish(event.id, now: world.now)
            }
        }
        #expect(Set(established).count == count, options)
        #expect(Set(world.ends[0].events.map(\.id)) == Set(active), options)

        for index in 0..<count {
            let end = Int.random(in: 0...1, using: &world.generator)
            let id = end == 0 ? active[index] : passive[0x100 + UInt32(index)]
            try world.ends[end].management.disconnect(#require(id), now: world.now)
        }
        world.run(for: 120_000_000_000)
        for end in 0..<2 {
            let stories = Dictionary(grouping: world.ends[end].events, by: \.id).values.map { $0.map(\.kind.name) }
            let expected =
                end == 0
                ? ["reply", "disconnected", "timeWaitEnded"]
                : ["request", "established", "disconnected", "timeWaitEnded"]
            #expect(stories.count == count, options)
            for story in stories { #expect(story == expected, options) }
            #expect(world.ends[end].management.communicationCount == 0, options)
            #expect(world.ends[end].management.nextDeadline == nil, options)
        }
    }

    /// Any sequence of messages, most of them nonsense, from a peer that knows the ids.
    @Test("hostile messages never trap, and never leave more than the limit", arguments: 0..<50 as Range<UInt64>)
    func hostile(_ seed: UInt64) throws {
        var world = ManagementWorld(seed: seed) { $0.communicationCountMax = 64 }
        try world.listen(backlog: 100)
        var ids = [CommunicationID(rawValue: 0), try world.connect()]
        for _ in 0..<500 {
            var bytes = [UInt8](repeating: 0, count: ManagementDatagram.byteCount)
            for index in bytes.indices { bytes[index] = .random(in: 0...255, using: &world.generator) }
            bytes.replaceSubrange(0..<4, with: [1, 7, 2, 3])
            bytes[16] = 0
            bytes[17] = .random(in: 0x10...0x18, using: &world.generator)
            // Half of them name communications that there are.
            for offset in [24, 28] where Bool.random(using: &world.generator) {
                let id = ids.randomElement(using: &world.generator)!.rawValue
                for byte in 0..<4 { bytes[offset + byte] = UInt8(truncatingIfNeeded: id >> UInt32(24 - byte * 8)) }
            }
            if Bool.random(using: &world.generator) {
                bytes.replaceSubrange(32..<40, with: [0, 0, 0, 0, 1, 6, 0x1D, 0x2F])
            }
            if case .datagram(let datagram) = ManagementDatagram.parse(bytes.span.bytes) {
                world.deliver(datagram.message, to: Int.random(in: 0...1, using: &world.generator))
            }
            world.now += .random(in: 0...100_000_000, using: &world.generator)
            for end in world.ends.indices {
                world.ends[end].management.advance(to: world.now)
                ids += world.ends[end].events.map(\.id).suffix(2)
            }
            if ids.count > 40 { ids.removeFirst(20) }
            for end in world.ends { #expect(end.management.communicationCount <= 64) }
        }
    }
}
