// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import Verbs

extension DeviceTests {
    /// The port space UDP: datagram services, and multicast.
    @Suite("a datagram service", .serialized, TestDevice.hasConnections) struct DatagramServices {
        @Test("is found by address, and datagrams reach it", arguments: [0, 1, 180])
        func find(count: Int) throws {
            let ends = try Introduction(.udp)
            let question = [UInt8](repeating: 0x5A, count: count)
            let answer = [UInt8](repeating: 0xC3, count: min(count, PrivateDataLimit.datagramReply))
            let client = try Equipment(ends.client, .unreliableDatagram)
            try ends.client.requestService(privateData: question)

            let (passive, asked) = try ends.serverChannel.request()
            #expect(Array(asked.privateData.prefix(count)) == question)
            let server = try Equipment(passive, .unreliableDatagram)
            try server.postReceive()
            try passive.accept(server.queuePair, ConnectionParameters(privateData: answer))

            let event = try ends.clientChannel.event()
            guard case .datagramEstablished(let service) = event.kind else {
                Issue.record("\(event.kind)")
                return
            }
            #expect(Array(service.privateData.prefix(answer.count)) == answer)
            #expect(service.queuePair == server.queuePair.number)
            let destination = try service.destination(in: client.domain)
            expectPosted(client.queuePair.post(.send, try client.buffer(Array("datagram".utf8)), to: destination))
            #expect(try client.completion().status == .success)
            let received = try server.completion()
            #expect(received.status == .success && received.byteCount == 48)
            #expect(received.sourceQueuePair == client.queuePair.number)
            #expect(received.takeBuffer()?.array.suffix(8) == Array("datagram".utf8)[...])
        }

        @Test("that does not exist, or refuses, is reported", arguments: [true, false])
        func refuse(exists: Bool) throws {
            let ends = try Introduction(.udp)
            let channel = try TestDevice.channel()
            let client = try channel.makeIdentifier(.udp)
            let port = exists ? try #require(ends.listener.localAddress).port : 9
            try Introduction.resolve(client, SocketAddress(TestDevice.address().address, port: port))
            try client.requestService()
            if exists { try ends.serverChannel.request().0.reject() }
            let event = try channel.event()
            guard case .unreachable(let why, _) = event.kind else {
                Issue.record("\(event.kind)")
                return
            }
            #expect(why == .datagramStatus(exists ? 2 : 1))
            #expect(event.kind.error?.cause == .rejected)
        }

        @Test("joins a group, and leaves it")
        func multicast() throws {
            let group = SocketAddress(GID(ipv4: 0xEF01_0203), port: 4321)
            let channel = try TestDevice.channel()
            var members: [(ConnectionIdentifier, Equipment, DatagramEndpoint)] = []
            for _ in 0..<2 {
                let identifier = try channel.makeIdentifier(.udp)
                try identifier.bind(to: TestDevice.address())
                let side = try Equipment(identifier, .unreliableDatagram)
                try identifier.joinMulticast(group)
                let event = try channel.event()
                guard case .multicastJoined(let address, let endpoint) = event.kind else {
                    Issue.record("\(event.kind)")
                    return
                }
                #expect(event.identifier === identifier)
                #expect(address == group)
                #expect(endpoint.path.gid?.isMulticast == true)
                try side.queuePair.attach(to: endpoint)
                try side.postReceive()
                members.append((identifier, side, endpoint))
            }
            let (sender, receiver) = (members[0].1, members[1].1)
            let destination = try members[0].2.destination(in: sender.domain)
            expectPosted(sender.queuePair.post(.send, try sender.buffer(Array("to all".utf8)), to: destination))
            let received = try receiver.completion()
            #expect(received.status == .success)
            #expect(received.takeBuffer()?.array.suffix(6) == Array("to all".utf8)[...])
            for (identifier, side, endpoint) in members {
                try side.queuePair.detach(from: endpoint)
                try identifier.leaveMulticast(group)
                let again = refusal { () throws(VerbsError) in try identifier.leaveMulticast(group) }
                #expect(again?.cause == .invalidAttribute)
            }
        }
    }
}
