// SPDX-License-Identifier: Apache-2.0
import RoCEWire
import Testing

/// The payload of each frame of a capture that goes to queue pair 1.
private func managementDatagrams(of capture: Capture) -> [[UInt8]] {
    capture.frames.compactMap { frame in
        guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes),
            case .packet(let packet) = RoCEPacket.parse(frame.span.bytes.extracting(outer.udpPayload)),
            packet.bth.destination == .gsi
        else { return nil }
        let start = outer.udpPayload.lowerBound + packet.payloadOffset
        return Array(frame[start..<start + packet.payloadByteCount])
    }
}

private func message(_ bytes: [UInt8]) throws -> CommunicationMessage {
    guard case .datagram(let datagram) = ManagementDatagram.parse(bytes.span.bytes) else {
        throw Unparsed(description: "\(ManagementDatagram.parse(bytes.span.bytes))")
    }
    return datagram.message
}

private struct Unparsed: Error, CustomStringConvertible {
    let description: String
}

private func emitted(_ datagram: ManagementDatagram) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xA5, count: ManagementDatagram.byteCount)
    var storage = bytes.mutableSpan
    var span = storage.mutableBytes
    datagram.emit(into: &span)
    return bytes
}

@Suite("Messages of the communication management")
struct ManagementDatagramTests {
    @Test("that the kernel sent all parse, and are the same bytes when written again")
    func roundTrip() throws {
        var seen: [String: Int] = [:]
        for capture in Capture.all {
            for bytes in managementDatagrams(of: capture) {
                guard case .datagram(let datagram) = ManagementDatagram.parse(bytes.span.bytes) else {
                    Issue.record("\(capture): \(ManagementDatagram.parse(bytes.span.bytes)) \(bytes)")
                    continue
                }
                seen[datagram.message.description, default: 0] += 1
                #expect(emitted(datagram) == bytes, "\(capture): \(datagram.message)")
            }
        }
        // Counted by tshark: infiniband.mad.attributeid of all captures.
        #expect(
            seen == [
                "REQ": 20, "REJ": 10, "REP": 16, "RTU": 16, "DREQ": 17, "DREP": 17, "SIDR_REQ": 3, "SIDR_REP": 3,
            ])
    }

    private func rping() throws -> [[UInt8]] {
        let capture = Capture.all.first { $0.name == "rping.pcap" }
        return managementDatagrams(of: try #require(capture))
    }

    @Test("a REQ has the fields that tshark shows")
    func connectionRequest() throws {
        guard case .connectionRequest(let request) = try message(rping()[0]) else {
            Issue.record("no REQ")
            return
        }
        #expect(request.localID.rawValue == 0x8a94_0abe)
        #expect(request.serviceID == ServiceID(portSpace: .tcp, port: 7174))
        #expect(request.serviceID.portSpace == .tcp)
        #expect(request.serviceID.port == 7174)
        #expect(request.nodeGUID == 0x0000_0aff_fe09_0201)
        #expect(request.qpn.rawValue == 0x20)
        #expect(request.responderResources == 1)
        #expect(request.initiatorDepth == 1)
        #expect(request.remoteResponseTimeout == 20)
        #expect(request.transport == .reliableConnected)
        #expect(!request.usesEndToEndFlowControl)
        #expect(request.startingPSN.rawValue == 0xab3e36)
        #expect(request.localResponseTimeout == 20)
        #expect(request.retryCount == 7)
        #expect(request.partitionKey == .default)
        #expect(request.pathMTUCode == PathMTU.bytes1024.rawValue)
        #expect(request.rnrRetry == 7)
        #expect(request.retryCountMax == 15)
        #expect(!request.usesSharedReceives)
        #expect(request.localLID == 0xFFFF)
        #expect(request.localGID == GID("10.9.2.1"))
        #expect(request.remoteGID == GID("10.9.2.2"))
        #expect(request.hopLimit == 64)
        #expect(request.ackTimeout == 19)
        #expect(!request.hasAlternatePath)
        #expect(request.privateData.count == 92)
        let addresses = try #require(ConnectionAddresses(parsing: request.privateData))
        #expect(addresses.source == GID("10.9.2.1"))
        #expect(addresses.destination == GID("10.9.2.2"))
        // The flow label that the kernel makes of the two ports (cma_get_roce_udp_flow_label).
        #expect(request.flowLabel == (UInt32(addresses.sourcePort) * 31 + 7174) & 0xF_FFFF)
    }

    @Test("a REP and an RTU have the fields that tshark shows")
    func connectionReply() throws {
        let datagrams = try rping()
        guard case .connectionReply(let reply) = try message(datagrams[1]),
            case .readyToUse(let ready) = try message(datagrams[2])
        else {
            Issue.record("no REP and RTU")
            return
        }
        #expect(reply.localID.rawValue == 0xb38b_093b)
        #expect(reply.remoteID.rawValue == 0x8a94_0abe)
        #expect(reply.qpn.rawValue == 0x20)
        #expect(reply.startingPSN.rawValue == 0x56c569)
        #expect(reply.responderResources == 1)
        #expect(reply.initiatorDepth == 1)
        #expect(reply.ackDelay == 15)
        #expect(reply.failover == 0)
        #expect(reply.rnrRetry == 7)
        #expect(!reply.usesSharedReceives)
        #expect(reply.nodeGUID == 0x0000_0aff_fe09_0202)
        #expect(ready.localID == reply.remoteID)
        #expect(ready.remoteID == reply.localID)
    }

    /// No kernel could be made to send them: rxe has no XRC. So they are the kernel's messages of RC, changed where its
    /// include/rdma/ibta_vol1_c12.h and drivers/infiniband/core/cm_msgs.h have the fields.
    @Test("a REQ of XRC says so in two fields, and a REP names its target in the place of the EECN")
    func extended() throws {
        let datagrams = try rping()
        var (requestBytes, replyBytes) = (datagrams[0], datagrams[1])
        requestBytes[24 + 43] |= 3 << 1
        requestBytes[24 + 51] |= 1
        replyBytes.replaceSubrange(24 + 16..<24 + 19, with: replyBytes[24 + 12..<24 + 15])
        replyBytes.replaceSubrange(24 + 12..<24 + 15, with: [0, 0, 0])
        guard case .connectionRequest(let plain) = try message(datagrams[0]),
            case .connectionRequest(var request) = try message(requestBytes),
            case .connectionReply(let plainReply) = try message(datagrams[1]),
            case .connectionReply(let reply) = try message(replyBytes)
        else {
            Issue.record("no REQ and REP")
            return
        }
        #expect(request.transport == .extendedReliableConnected && request.qpn.rawValue == 0x20)
        #expect(request.retryCountMax == 15 && request.retryCount == 7 && request.remoteResponseTimeout == 20)
        #expect(reply.eecn.rawValue == 0x20 && reply.qpn.rawValue == 0)
        #expect(reply.queuePair(of: .extendedReliableConnected).rawValue == 0x20)
        #expect(plainReply.queuePair(of: .reliableConnected).rawValue == 0x20 && plainReply.eecn.rawValue == 0)
        for bytes in [requestBytes, replyBytes] {
            guard case .datagram(let datagram) = ManagementDatagram.parse(bytes.span.bytes) else {
                Issue.record("\(bytes)")
                continue
            }
            #expect(emitted(datagram) == bytes)
        }
        // But for those two fields it is the REQ of RC.
        request.transport = .reliableConnected
        #expect(request == plain)

        // Extended types are of transport 3 alone, and there are others than XRC.
        requestBytes[24 + 51] = requestBytes[24 + 51] & 0xF8 | 2
        guard case .datagram(let other) = ManagementDatagram.parse(requestBytes.span.bytes),
            case .connectionRequest(let unknown) = other.message
        else {
            Issue.record("no REQ")
            return
        }
        #expect(unknown.transport == .init(rawValue: 2 << 2 | 3) && emitted(other) == requestBytes)
        requestBytes[24 + 43] &= 0xF9
        guard case .connectionRequest(let reserved) = try message(requestBytes) else {
            Issue.record("no REQ")
            return
        }
        #expect(reserved.transport == .reliableConnected)
    }

    @Test("a DREQ names the queue pair of its receiver")
    func disconnect() throws {
        let datagrams = try rping()
        guard case .connectionRequest(let request) = try message(datagrams[0]),
            case .connectionReply(let reply) = try message(datagrams[1]),
            case .disconnectRequest(let end) = try message(datagrams[3]),
            case .disconnectReply(let answer) = try message(datagrams[4])
        else {
            Issue.record("no DREQ and DREP")
            return
        }
        #expect(end.localID == request.localID)
        #expect(end.remoteID == reply.localID)
        #expect(end.remoteQPN == reply.qpn)
        #expect(answer.localID == reply.localID)
        #expect(answer.remoteID == request.localID)
    }

    @Test("a REJ has its reason")
    func rejection() throws {
        let capture = try #require(Capture.all.first { $0.name == "cm_reject.pcap" })
        let datagrams = managementDatagrams(of: capture)
        guard case .connectionRequest(let request) = try message(datagrams[0]),
            case .rejection(let rejection) = try message(datagrams[1])
        else {
            Issue.record("no REQ and REJ")
            return
        }
        #expect(rejection.reason == .invalidServiceID)
        #expect(rejection.subject == .connectionRequest)
        #expect(rejection.remoteID == request.localID)
    }

    @Test("a SIDR_REQ and its answer name the service and its queue pair")
    func service() throws {
        let capture = try #require(Capture.all.first { $0.name == "udaddy_sidr.pcap" })
        let datagrams = managementDatagrams(of: capture)
        guard case .serviceRequest(let request) = try message(datagrams[0]),
            case .serviceReply(let reply) = try message(datagrams[1])
        else {
            Issue.record("no SIDR_REQ and SIDR_REP")
            return
        }
        #expect(request.requestID.rawValue == 0x8c94_0abe)
        #expect(request.serviceID == ServiceID(portSpace: .udp, port: 7174))
        #expect(ConnectionAddresses(parsing: request.privateData)?.source == GID("10.9.2.1"))
        #expect(reply.requestID == request.requestID)
        #expect(reply.serviceID == request.serviceID)
        #expect(reply.status == .valid)
        #expect(reply.queueKey == .connectionManager)
        // The datagrams that follow in the capture go to this queue pair.
        let destinations = Set(
            capture.frames.compactMap { frame -> UInt32? in
                guard case .frame(let outer) = RoCEFrame.parse(ethernet: frame.span.bytes),
                    case .packet(let packet) = RoCEPacket.parse(frame.span.bytes.extracting(outer.udpPayload)),
                    packet.bth.destination != .gsi, outer.flow.destination == GID("10.9.2.2")
                else { return nil }
                return packet.bth.destination.rawValue
            })
        #expect(destinations == [reply.qpn.rawValue])
    }

    @Test("of other lengths, classes and attributes are told apart, and none traps")
    func hostile() throws {
        let good = try rping()[0]
        #expect(ManagementDatagram.parse(Array(good.dropLast()).span.bytes) == .malformed)
        #expect(ManagementDatagram.parse((good + [0]).span.bytes) == .malformed)
        #expect(ManagementDatagram.parse([UInt8]().span.bytes) == .malformed)
        for (offset, value) in [(0, 2), (1, 4), (2, 1), (3, 1), (17, 0x19), (16, 1)] as [(Int, UInt8)] {
            var bad = good
            bad[offset] = value
            #expect(ManagementDatagram.parse(bad.span.bytes) == .foreign, "byte \(offset)")
        }
        let capture = try #require(Capture.all.first { $0.name == "cm_reject.pcap" })
        var rejection = managementDatagrams(of: capture)[1]
        rejection[24 + 9] = 73 << 1
        #expect(ManagementDatagram.parse(rejection.span.bytes) == .malformed)
    }

    @Test("addresses of IPv6 stand whole in the private data; other versions are refused")
    func addresses() throws {
        let source = try #require(GID("fd00::1"))
        let destination = try #require(GID("fd00::2"))
        let bytes = ConnectionAddresses(sourcePort: 0x1234, source: source, destination: destination)
            .prepended(to: [7])
        #expect(bytes.count == 37)
        // The layout of struct cma_hdr.
        #expect(bytes[..<4] == [0, 0x60, 0x12, 0x34])
        #expect(bytes[4..<20].first == 0xFD && bytes[19] == 1 && bytes[20] == 0xFD && bytes[35] == 2 && bytes[36] == 7)
        let parsed = ConnectionAddresses(parsing: bytes)
        #expect(parsed?.source == source)
        #expect(parsed?.destination == destination)
        #expect(ConnectionAddresses(parsing: [1] + bytes.dropFirst()) == nil)
        #expect(ConnectionAddresses(parsing: [0, 0x50] + bytes.dropFirst(2)) == nil)
        #expect(ConnectionAddresses(parsing: Array(bytes.prefix(35))) == nil)
    }

    @Test("carry what peers of this package offer where private data leaves eight bytes, and show zeros instead")
    func capabilities() {
        let offer = PeerCapabilities.selectiveRepetition
        for count in [0, 1, 48] {
            let data = [UInt8](repeating: 7, count: count)
            var whole = offer.added(to: data, room: 56)
            #expect(whole.count == 56)
            #expect(whole.suffix(8) == [0x73, 0x77, 0x76, 0x62, 1, 1, 0xFE, 0])
            #expect(PeerCapabilities.take(from: &whole) == offer)
            #expect(whole == data + [UInt8](repeating: 0, count: 56 - count))
            #expect(PeerCapabilities.take(from: &whole) == [])
        }
        let full = [UInt8](repeating: 7, count: 49)
        #expect(offer.added(to: full, room: 56) == full)
        #expect(PeerCapabilities().added(to: [1], room: 56) == [1])
        // An application's own data that only resembles it.
        var other = [UInt8](repeating: 0, count: 48) + [0x73, 0x77, 0x76, 0x62, 1, 1, 0xFD, 0]
        let before = other
        #expect(PeerCapabilities.take(from: &other) == [])
        #expect(other == before)
        var short: [UInt8] = [0x76, 0x62, 1, 1, 0xFE, 0]
        #expect(PeerCapabilities.take(from: &short) == [])
    }
}
