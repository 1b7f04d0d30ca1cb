// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing

@testable import VerbsPerf

@Suite("The TCP connection of a session", .timeLimit(.minutes(10)))
struct PeerConnectionTests {
    @Test(
        "A recorded server takes every message of ours in one read, and its answers are the recorded ones",
        arguments: ["send_bw", "write_bw", "read_lat", "send_bw_b2"])
    func replay(name: String) throws {
        let fixture = try PerftestFixture(name)
        let acts = zip(fixture.client, fixture.server).flatMap { [ScriptedPeer.Act.expect($0), .send($1)] }
        let (peer, descriptor) = ScriptedPeer.pair(acts)
        let connection = PeerConnection(adopting: descriptor, role: .client)
        for (client, server) in zip(fixture.client, fixture.server) {
            #expect(try connection.exchange(client, count: server.count) == server)
        }
        #expect(peer.result() == nil)
    }

    @Test("As the server we read first, then write")
    func serverRole() throws {
        let fixture = try PerftestFixture("send_lat")
        let acts = zip(fixture.client, fixture.server).flatMap { [ScriptedPeer.Act.send($0), .expect($1)] }
        let (peer, descriptor) = ScriptedPeer.pair(acts)
        let connection = PeerConnection(adopting: descriptor, role: .server)
        for (client, server) in zip(fixture.client, fixture.server) {
            #expect(try connection.exchange(server, count: client.count) == client)
        }
        #expect(peer.result() == nil)
    }

    @Test("A message that comes in pieces is put together")
    func split() throws {
        let record = try PerftestFixture("send_lat").server[4]
        let (peer, descriptor) = ScriptedPeer.pair([.expect([1]), .sendSplit(record)])
        let connection = PeerConnection(adopting: descriptor, role: .client)
        #expect(try connection.exchange([1], count: record.count) == record)
        #expect(peer.result() == nil)
    }

    @Test("A peer that closes in the middle of a message is gone")
    func closed() throws {
        let (peer, descriptor) = ScriptedPeer.pair([.expect([1]), .send([1, 2, 3]), .close])
        let connection = PeerConnection(adopting: descriptor, role: .client)
        let error = #expect(throws: PerfError.self) { try connection.exchange([1], count: 10) }
        guard case .peerGone = error else { return #expect(Bool(false), "\(String(describing: error))") }
        #expect(peer.result() == nil)
        #expect(connection.look() == .closed)
    }

    @Test("A peer that waits for something else is told apart from one that is gone")
    func silent() throws {
        let (peer, descriptor) = ScriptedPeer.pair([.expect([1]), .send([1, 2]), .sleep(milliseconds: 600)])
        let connection = PeerConnection(adopting: descriptor, role: .client)
        connection.setUpMilliseconds = 200
        let error = #expect(throws: PerfError.self) { try connection.exchange([1], count: 10) }
        guard case .protocolMismatch = error else { return #expect(Bool(false), "\(String(describing: error))") }
        #expect(peer.result() == nil)
    }

    @Test("Looking whether the peer is there takes nothing from the stream")
    func peek() throws {
        let (peer, descriptor) = ScriptedPeer.pair([.send([7, 8]), .expect([9]), .close])
        let connection = PeerConnection(adopting: descriptor, role: .client)
        // The peer's thread may not have run yet.
        for _ in 0..<200 where connection.look() != .message { usleep(10_000) }
        #expect(connection.look() == .message)
        #expect(try connection.receive(2) == [7, 8])
        #expect(connection.look() == .nothing)
        try connection.send([9])
        #expect(peer.result() == nil)
        #expect(connection.look() == .closed)
    }

    @Test("No server there: the error says where, and what to do")
    func refused() throws {
        // A port that was just free.
        let port = try PeerListener(port: 0, loopbackOnly: true).port
        let error = #expect(throws: PerfError.self) {
            _ = try PeerConnection.connect(host: "127.0.0.1", port: port, retrySeconds: 0)
        }
        #expect(error?.description.contains("\(port)") == true)
        #expect(error?.exitStatus == 68)
    }

    @Test("A port that is taken, and a name that does not exist, are errors of the user's kind")
    func taken() throws {
        let listener = try PeerListener(port: 0, loopbackOnly: true)
        let port = listener.port
        #expect(throws: PerfError.self) { _ = try PeerListener(port: port, loopbackOnly: true) }
        #expect(throws: PerfError.self) { _ = try PeerConnection.connect(host: "no-such-host.invalid", port: 1) }
    }

    @Test("Connections know their own address in the form of a GID")
    func localAddress() throws {
        let listener = try PeerListener(port: 0, loopbackOnly: true)
        let client = try PeerConnection.connect(host: "127.0.0.1", port: listener.port)
        let server = try listener.accept(seconds: 5)
        let loopback: [UInt8] = Array(repeating: 0, count: 10) + [0xFF, 0xFF, 127, 0, 0, 1]
        #expect(client.localAddress == loopback)
        #expect(server.localAddress == loopback)
    }
}
