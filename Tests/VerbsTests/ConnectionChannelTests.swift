// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    /// The connection manager, call by call.
    @Suite("a connection channel", .serialized, TestDevice.hasConnections) struct Channels {
        @Test("connects two identifiers by address, with private data both ways", arguments: [0, 1, 56])
        func connect(count: Int) throws {
            let ends = try Introduction()
            let question = [UInt8]((0..<count).map { UInt8(truncatingIfNeeded: $0 + 1) })
            let answer = [UInt8](repeating: 0xA5, count: count == 56 ? PrivateDataLimit.accept : count)
            let client = try Equipment(ends.client)
            let selective = ends.client.context?.counters.first { $0.name == "selective_connections" }?.value
            try client.postReceive()
            try ends.client.connect(
                client.queuePair,
                ConnectionParameters(privateData: question, initiatorDepth: 2, responderResources: 3))

            let (passive, offer) = try ends.serverChannel.request()
            #expect(Array(offer.privateData.prefix(count)) == question)
            #expect(offer.privateData.count <= PrivateDataLimit.connect)
            #expect(offer.privateData.dropFirst(count).allSatisfy { $0 == 0 })
            #expect(offer.initiatorDepth == 3 && offer.responderResources == 2)
            #expect(offer.queuePair == client.queuePair.number)
            #expect(passive.context === ends.client.context)
            #expect(passive.localAddress == ends.client.peerAddress)
            #expect(passive.peerAddress == ends.client.localAddress)
            let server = try Equipment(passive)
            try server.postReceive()
            try passive.activate(server.queuePair, depths: (initiator: 3, responder: 2))
            try passive.accept(
                server.queuePair,
                ConnectionParameters(privateData: answer, initiatorDepth: 3, responderResources: 2))

            let response = try ends.clientChannel.event()
            guard case .connectResponse(let agreed) = response.kind else {
                Issue.record("\(response.kind)")
                return
            }
            #expect(Array(agreed.privateData.prefix(answer.count)) == answer)
            #expect(agreed.initiatorDepth == 2 && agreed.responderResources == 3)
            try ends.client.activate(client.queuePair)
            try ends.client.establish()
            let established = try ends.serverChannel.event()
            #expect(established.identifier === passive)
            guard case .established = established.kind else {
                Issue.record("\(established.kind)")
                return
            }
            #expect(try client.queuePair.queryAttributes().minRNRTimer == 12)
            if let selective {
                // Software devices agree to repeat selectively where private data leaves room to offer it.
                let now = ends.client.context?.counters.first { $0.name == "selective_connections" }?.value
                #expect(now == selective + (count < 56 ? 2 : 0))
            }

            try exchange(client, server)
        }

        @Test("ends a connection from either side", arguments: [true, false])
        func disconnect(clientBegins: Bool) throws {
            let ends = try Introduction()
            let (client, server, passive) = try connected(ends)
            for side in [client, server] { try side.postReceive() }
            try (clientBegins ? ends.client : passive).disconnect()
            // The side that began hears of it when the other has agreed.
            let told = clientBegins ? ends.serverChannel : ends.clientChannel
            try told.await("the end") { if case .disconnected = $0.kind { true } else { nil } }
            try (clientBegins ? passive : ends.client).disconnect()
            let began = clientBegins ? ends.clientChannel : ends.serverChannel
            try began.await("the consent") { if case .disconnected = $0.kind { true } else { nil } }
            for side in [client, server] {
                try side.queuePair.modify(QueuePairAttributes(state: .error))
                #expect(try side.completion().status == .flushed)
            }
        }

        @Test("tells the peer of an identifier that is let go")
        func drop() throws {
            let ends = try Introduction()
            let client = try Equipment(ends.client)
            var passive: ConnectionIdentifier?
            let server: Equipment
            (passive, server) = try accept(ends, client)
            withExtendedLifetime(server) { passive = nil }
            try ends.clientChannel.await("the end") { if case .disconnected = $0.kind { true } else { nil } }
            _ = passive
        }

        @Test("rejects with private data", arguments: [0, 1, PrivateDataLimit.reject])
        func reject(count: Int) throws {
            let ends = try Introduction()
            let client = try Equipment(ends.client)
            try ends.client.connect(client.queuePair)
            let (passive, _) = try ends.serverChannel.request()
            let why = [UInt8](repeating: 7, count: count)
            try passive.reject(privateData: why)
            let event = try ends.clientChannel.event()
            guard case .rejected(let reason, let privateData) = event.kind else {
                Issue.record("\(event.kind)")
                return
            }
            #expect(reason == .consumer)
            #expect(Array(privateData.prefix(count)) == why)
            #expect(event.kind.error?.cause == .rejected)
        }

        @Test("refuses a request whose identifier is let go unanswered")
        func unanswered() throws {
            let ends = try Introduction()
            let client = try Equipment(ends.client)
            try ends.client.connect(client.queuePair)
            _ = try ends.serverChannel.request()
            let event = try ends.clientChannel.event()
            guard case .rejected = event.kind else {
                Issue.record("\(event.kind)")
                return
            }
        }

        @Test("says that nobody listens on a port")
        func nobody() throws {
            let channel = try TestDevice.channel()
            let identifier = try channel.makeIdentifier(.tcp)
            try Introduction.resolve(identifier, TestDevice.address(port: 9))
            let side = try Equipment(identifier)
            try identifier.connect(side.queuePair)
            let event = try channel.event()
            guard case .rejected(let reason, _) = event.kind else {
                Issue.record("\(event.kind)")
                return
            }
            #expect(reason == .invalidServiceID)
            #expect(event.kind.error?.value == "8 invalid service identifier")
            #expect(event.kind.error?.description.contains("start the server") == true)
        }

        @Test("listens on all addresses, on a port that it chooses")
        func wildcard() throws {
            let ends = try Introduction(wildcard: true)
            #expect(try #require(ends.listener.localAddress).port != 0)
            #expect(ends.listener.localAddress?.isWildcard == true)
            #expect(ends.listener.context == nil)
            let client = try Equipment(ends.client)
            try ends.client.connect(client.queuePair)
            let (passive, _) = try ends.serverChannel.request()
            #expect(passive.context?.device.name == TestDevice.name)
            #expect(passive.port == 1)
        }

        @Test("gives all identifiers of a device one context")
        func oneContext() throws {
            let address = try TestDevice.address()
            let identifiers = try (0..<3).map { _ in
                let identifier = try TestDevice.channel().makeIdentifier(.tcp)
                try identifier.bind(to: address)
                return identifier
            }
            let context = try #require(identifiers[0].context)
            #expect(identifiers.allSatisfy { $0.context === context })
            #expect(context.device.name == TestDevice.name)
            #expect(try context.port(1).state == .active)
        }

        @Test("holds no more requests than its backlog, while nobody reads them")
        func backlog() throws {
            let ends = try Introduction(backlog: 1)
            let channel = try TestDevice.channel()
            let port = try #require(ends.listener.localAddress).port
            let sides = try (0..<3).map { _ in
                let identifier = try channel.makeIdentifier(.tcp)
                try Introduction.resolve(identifier, SocketAddress(TestDevice.address().address, port: port))
                return (identifier, try Equipment(identifier))
            }
            for (identifier, side) in sides { try identifier.connect(side.queuePair) }
            // The requests are on their way; long before the first of them is repeated all have been judged.
            _ = try channel.nextEvent(timeout: .seconds(1))
            _ = try ends.serverChannel.request()
            #expect(try ends.serverChannel.nextEvent(timeout: .zero).map { "\($0.kind)" } == nil)
        }

        @Test("refuses private data that does not fit, and says the limit")
        func privateDataLimits() throws {
            let ends = try Introduction()
            let client = try Equipment(ends.client)
            func check(_ limit: Int, _ body: ([UInt8]) throws(VerbsError) -> Void) {
                let error = refusal { () throws(VerbsError) in try body([UInt8](repeating: 1, count: limit + 1)) }
                #expect(
                    error?.cause == .invalidAttribute && error?.limit == "\(limit) bytes",
                    "\(String(describing: error))")
            }
            check(PrivateDataLimit.connect) { (data) throws(VerbsError) in
                try ends.client.connect(client.queuePair, ConnectionParameters(privateData: data))
            }
            check(PrivateDataLimit.accept) { (data) throws(VerbsError) in
                try ends.client.accept(client.queuePair, ConnectionParameters(privateData: data))
            }
            check(PrivateDataLimit.reject) { (data) throws(VerbsError) in try ends.client.reject(privateData: data) }
            let datagram = try TestDevice.channel().makeIdentifier(.udp)
            check(PrivateDataLimit.datagramRequest) { (data) throws(VerbsError) in
                try datagram.requestService(privateData: data)
            }
            check(PrivateDataLimit.datagramReply) { (data) throws(VerbsError) in
                try datagram.reject(privateData: data)
            }
        }

        @Test("refuses an address that is taken or not ours")
        func addresses() throws {
            let channel = try TestDevice.channel()
            let first = try channel.makeIdentifier(.tcp)
            try first.bind(to: TestDevice.address())
            try first.listen()
            let taken = try #require(first.localAddress)
            let second = try channel.makeIdentifier(.tcp)
            let inUse = refusal { () throws(VerbsError) in
                try second.bind(to: taken)
                try second.listen()
            }
            #expect(inUse?.cause == .addressInUse)
            #expect(inUse?.value == taken.description)
            let foreign = refusal { () throws(VerbsError) in
                try channel.makeIdentifier(.tcp).bind(to: SocketAddress(GID(ipv4: 0xC000_0201), port: 0))
            }
            #expect([.noDevice, .invalidAttribute].contains(foreign?.cause))
        }

        @Test("refuses calls that come too early, without harm")
        func tooEarly() throws {
            let identifier = try TestDevice.channel().makeIdentifier(.tcp)
            let side = try Equipment(TestDevice.open())
            #expect(identifier.context == nil && identifier.port == nil)
            refusal { () throws(VerbsError) in try identifier.resolveRoute() }
            refusal { () throws(VerbsError) in try identifier.connect(side.queuePair) }
            refusal { () throws(VerbsError) in try identifier.accept(side.queuePair) }
            refusal { () throws(VerbsError) in try identifier.prepare(side.queuePair) }
            refusal { () throws(VerbsError) in try identifier.establish() }
            refusal { () throws(VerbsError) in try identifier.disconnect() }
            refusal { () throws(VerbsError) in try identifier.reject() }
        }

        @Test("says that no route leads to an address")
        func noRoute() throws {
            let channel = try TestDevice.channel()
            let identifier = try channel.makeIdentifier(.tcp)
            do throws(VerbsError) {
                // From the device's own address: this machine may have a way there by another.
                let source = (try? TestDevice.address()) ?? .anyIPv4()
                try identifier.resolveAddress(
                    SocketAddress(GID(ipv4: 0xC000_0201), port: 1), from: source, timeout: .milliseconds(500))
            } catch {
                // Some tell at once.
                #expect([.unreachable, .noDevice, .timedOut].contains(error.cause), "\(error)")
                return
            }
            let event = try channel.event()
            guard case .addressError = event.kind else {
                Issue.record("\(event.kind)")
                return
            }
            let error = try #require(event.kind.error)
            #expect([.unreachable, .timedOut].contains(error.cause), "\(error)")
            #expect(error.verb == "rdma_resolve_addr")
        }

        @Test("waits no longer than it is told")
        func timeouts() throws {
            let channel = try TestDevice.channel()
            #expect(try channel.nextEvent(timeout: .zero) == nil)
            #expect(try channel.nextEvent(timeout: .milliseconds(20)) == nil)
        }

        @Test("takes options")
        func options() throws {
            let identifier = try TestDevice.channel().makeIdentifier(.tcp)
            try identifier.setTypeOfService(0x20)
            try identifier.setReusesAddress(true)
            try identifier.setIPv6Only(true)
            try identifier.setAcknowledgementTimeout(17)
            try identifier.bind(to: TestDevice.address())
        }

        @Test("gives its events as a stream")
        func stream() async throws {
            let channel = try TestDevice.channel()
            let identifier = try channel.makeIdentifier(.tcp)
            try identifier.resolveAddress(TestDevice.address(port: 9), timeout: TestDevice.patience)
            for await event in channel.events {
                #expect(event.identifier === identifier)
                guard case .addressResolved = event.kind else {
                    Issue.record("\(event.kind)")
                    return
                }
                break
            }
        }

        @Test("lets everything go in any order")
        func teardown() throws {
            for order in 0..<3 {
                let ends = try Introduction()
                let client = try Equipment(ends.client)
                var held: [AnyObject] = [ends.listener, ends.client, ends.serverChannel, ends.clientChannel]
                try ends.client.connect(client.queuePair)
                if order > 0 {
                    let (passive, _) = try ends.serverChannel.request()
                    held.append(passive)
                    if order > 1 {
                        let server = try Equipment(passive)
                        try passive.activate(server.queuePair)
                        try passive.accept(server.queuePair)
                        held.append(server)
                    }
                }
                while !held.isEmpty { held.remove(at: held.count * order / 3) }
            }
        }

        // The steps that most tests begin with.

        private func accept(
            _ ends: Introduction, _ client: Equipment
        ) throws -> (ConnectionIdentifier, Equipment) {
            try ends.client.connect(client.queuePair)
            let (passive, _) = try ends.serverChannel.request()
            let server = try Equipment(passive)
            try passive.activate(server.queuePair)
            try passive.accept(server.queuePair)
            try ends.clientChannel.await("the response") { if case .connectResponse = $0.kind { true } else { nil } }
            try ends.client.activate(client.queuePair)
            try ends.client.establish()
            try ends.serverChannel.await("the last word") { if case .established = $0.kind { true } else { nil } }
            return (passive, server)
        }

        private func connected(_ ends: Introduction) throws -> (Equipment, Equipment, ConnectionIdentifier) {
            let client = try Equipment(ends.client)
            let (passive, server) = try accept(ends, client)
            return (client, server, passive)
        }

        private func exchange(_ client: Equipment, _ server: Equipment) throws {
            for (from, to) in [(client, server), (server, client)] {
                expectPosted(from.queuePair.post(.send, try from.buffer(Array("to the peer".utf8))))
                #expect(try from.completion().status == .success)
                #expect(try to.completion().takeBuffer()?.text == "to the peer")
            }
        }
    }
}
