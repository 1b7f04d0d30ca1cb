// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

@Suite("A mailbox", .serialized) struct MailboxTests {
    private func header(from source: GID, to destination: GID, segmentSize: UInt32) -> PeerMessage {
        var header = PeerMessage(kind: .datagram)
        header.source = source
        header.destination = destination
        header.segmentSize = segmentSize
        header.sourcePort = 0xC123
        return header
    }

    @Test("takes a well-formed message of the same user, and refuses every ill-formed one")
    func wellFormed() throws {
        let address = freshAddress()
        let link = try TestLink([address, loopbackIPv6])
        let sender = MailboxSender()
        let body = packet(to: link.slot, number: 3, byteCount: 100)
        sender.post(header(from: address, to: address, segmentSize: 100), body, to: link, at: address)
        #expect(turn([link]) { link.segments == [body] })
        #expect(link.sourcePorts == [0xC123])

        var refused: UInt64 = 0
        func refuse(_ header: PeerMessage, _ body: [UInt8]) {
            refused += 1
            sender.post(header, body, to: link, at: address)
        }
        let good = header(from: address, to: address, segmentSize: 100)
        refuse(good, packet(to: link.slot == 1 ? 2 : 1, byteCount: 100))  // of another slot
        refuse(good, [])
        refuse(good, [UInt8](body[..<11]))
        refuse(header(from: address, to: address, segmentSize: 0), body)
        refuse(header(from: address, to: address, segmentSize: 101), body)
        refuse(header(from: address, to: address, segmentSize: 11), body)
        refuse(header(from: address, to: address, segmentSize: .max), body)
        refuse(header(from: address, to: address, segmentSize: 95), body)  // last segment too short
        refuse(header(from: address, to: freshAddress(), segmentSize: 100), body)
        refuse(header(from: address, to: loopbackIPv6, segmentSize: 100), body)  // ours, but of another mailbox
        refuse(header(from: loopbackIPv6, to: address, segmentSize: 100), body)
        var far = good
        far.firstSegment = 65_536
        refuse(far, body)
        #expect(turn([link]) { link.counters.forwardedMalformed == refused })
        #expect(link.segments == [body])
    }

    @Test("stands any bytes")
    func arbitraryBytes() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        let sender = MailboxSender()
        var generator = SplitMix64(seed: 11)
        var sent: UInt64 = 0
        for round in 0..<2000 {
            var bytes = (0..<Int.random(in: 0...200, using: &generator)).map { _ in
                UInt8.random(in: 0...255, using: &generator)
            }
            // Half of them look right at first.
            if round % 2 == 0, bytes.count >= PeerMessage.byteCount {
                var memory = [UInt8](repeating: 0, count: PeerMessage.byteCount)
                header(from: address, to: address, segmentSize: UInt32(bytes[0])).store(to: &memory)
                bytes.replaceSubrange(0..<12, with: memory[0..<12])
                bytes[4] = UInt8.random(in: 0...3, using: &generator)
            }
            if sender.post(bytes, to: link, at: address) { sent += 1 }
            link.turn()
        }
        settle([link])
        let counters = link.counters
        #expect(sent > 1900)
        #expect(counters.forwardedMalformed + counters.forwardedReceived <= sent)
        #expect(counters.forwardedMalformed > 1000)
        #expect(link.segments.isEmpty)
    }

    @Test("refuses what another user says", .enabled(if: Privilege.otherUsers, "needs CAP_SETUID"))
    func otherUser() throws {
        let address = freshAddress()
        let link = try TestLink([address])
        let sender = MailboxSender()
        let body = packet(to: link.slot, byteCount: 100)
        sender.post(header(from: address, to: address, segmentSize: 100), body, to: link, at: address, asUser: 65_534)
        #expect(turn([link]) { link.counters.forwardedUntrusted == 1 })
        #expect(link.segments.isEmpty)
        #expect(link.counters.forwardedMalformed == 0)
    }

    @Test("that is full loses nothing that its owner takes soon, and what it does not take is dropped in time")
    func fullMailbox() throws {
        let address = freshAddress()
        var options = UDPLinkOptions()
        options.handOverLifetimeNanoseconds = 60_000_000_000
        let a = try TestLink([address], options: options)
        options.handOverLifetimeNanoseconds = 1_000_000
        let hasty = try TestLink([address], options: options)
        let b = try TestLink([address])
        // b does not run; a hands over more than any queue of ten holds.
        let bodies = (0..<200).map { packet(to: b.slot, number: UInt32($0)) }
        for body in bodies { #expect(a.forward(body, address: address, to: b.slot)) }
        #expect(turn([a, b]) { b.segments.count == 200 })
        let isComplete = b.segments == bodies
        #expect(isComplete, "all, in order")
        #expect(a.counters.forwardFailed == 0)

        b.forget()
        for body in bodies { _ = hasty.forward(body, address: address, to: b.slot) }
        #expect(turn([hasty]) { hasty.counters.forwarded + hasty.counters.forwardFailed == 200 })
        #expect(hasty.counters.forwardFailed > 0)
        settle([b])
        #expect(UInt64(b.segments.count) == hasty.counters.forwarded)
        // More than there is memory for, too.
        for _ in 0..<3 { for body in bodies { _ = a.forward(body, address: address, to: b.slot) } }
        #expect(a.counters.forwardFailed > 0)
    }
}

extension TestLink {
    func forward(_ bytes: [UInt8], address: GID, to slot: UInt8) -> Bool {
        bytes.withUnsafeBytes { buffer in
            link!.forward(
                Datagram(
                    base: buffer.baseAddress!, byteCount: buffer.count, segmentSize: buffer.count, firstSegment: 0,
                    localIndex: 0, source: address, destination: address, sourcePort: 0xC000, trafficClass: 0),
                toSlot: slot)
        }
    }
}

/// Writes to mailboxes as any program could.
private final class MailboxSender {
    private let descriptor = CLinuxNet.socket(AF_UNIX, clinuxnet_sock_datagram, 0)

    deinit { close(descriptor) }

    @discardableResult
    func post(
        _ header: PeerMessage, _ body: [UInt8], to link: TestLink, at address: GID, asUser uid: UInt32? = nil
    ) -> Bool {
        var bytes = [UInt8](repeating: 0, count: PeerMessage.byteCount)
        header.store(to: &bytes)
        return post(bytes + body, to: link, at: address, asUser: uid)
    }

    /// With a user it claims to be that one, which the kernel lets root do.
    @discardableResult
    func post(_ bytes: [UInt8], to link: TestLink, at address: GID, asUser uid: UInt32? = nil) -> Bool {
        var name = SlotName(address: address)
        name.setSlot(link.slot)
        var control = [UInt8](repeating: 0, count: clinuxnet_cmsg_space(MemoryLayout<clinuxnet_ucred>.size))
        return bytes.withUnsafeBytes { buffer in
            control.withUnsafeMutableBytes { controlBytes in
                var vector = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: buffer.baseAddress), iov_len: buffer.count)
                return withUnsafeMutablePointer(to: &vector) { vector in
                    var message = msghdr()
                    message.msg_name = UnsafeMutableRawPointer(mutating: name.address)
                    message.msg_namelen = name.length
                    message.msg_iov = vector
                    message.msg_iovlen = 1
                    if let uid {
                        message.msg_control = controlBytes.baseAddress
                        message.msg_controllen = controlBytes.count
                        let header = clinuxnet_cmsg_first(&message)!
                        header.pointee.cmsg_level = SOL_SOCKET
                        header.pointee.cmsg_type = Constant.credentials
                        header.pointee.cmsg_len = clinuxnet_cmsg_length(MemoryLayout<clinuxnet_ucred>.size)
                        clinuxnet_cmsg_data(header).storeBytes(
                            of: clinuxnet_ucred(pid: getpid(), uid: uid, gid: uid), as: clinuxnet_ucred.self)
                    }
                    // A queue of ten is soon full: the receiver has its turn, then again.
                    for _ in 0..<100 {
                        if clinuxnet_sendmsg(descriptor, &message) >= 0 { return true }
                        link.turn()
                    }
                    return false
                }
            }
        }
    }
}
