// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// A service of the communication management that this process serves on one address: a mailbox whose name says so.
///
/// Requests for a connection name a service, not a queue pair, so the process that the kernel gives one to need not be
/// the one that listens. It hands the request to the mailbox of the service. The kernel frees the name when the process
/// dies, however it does.
struct LinkService: ~Copyable {
    let service: ServiceID
    let localIndex: Int
    let socket: FileDescriptor
}

extension Optional where Wrapped == LinkService {
    var entry: (service: ServiceID, localIndex: Int, descriptor: Int32)? {
        switch self {
        case .none: nil
        case .some(let service): (service.service, service.localIndex, service.socket.number)
        }
    }
}

// Services of the communication management, shared among the processes of a host.
extension UDPLink {
    /// Claims a service on a local address for this process, so that requests for it come here.
    /// - Returns: `false` where a living process has it.
    package mutating func claimService(_ service: ServiceID, localIndex: Int) throws(PacketIOError) -> Bool {
        guard let gid = gid(at: localIndex) else { throw .invalid("no local address \(localIndex)") }
        guard let index = (0..<Self.servicesMax).first(where: { unsafe services[$0].entry == nil }) else {
            throw .limit(what: "services", maximum: Self.servicesMax)
        }
        var name = SlotName(address: gid)
        name.setService(service)
        guard let socket = try name.bindSocket() else { return false }
        SocketOption.set(socket.number, SOL_SOCKET, clinuxnet_so_passcred, 1)
        try watch(socket.number, PollToken.make(PollToken.service, index))
        unsafe services[index] = LinkService(service: service, localIndex: localIndex, socket: socket)
        return true
    }

    /// Gives a service back, on all addresses.
    package mutating func releaseService(_ service: ServiceID, localIndex: Int) {
        for index in 0..<Self.servicesMax {
            guard let entry = unsafe services[index].entry, entry.service == service, entry.localIndex == localIndex
            else { continue }
            unsafe services[index] = nil
            hot = HotSocket()
        }
    }

    /// Whether a living process has a service on a local address.
    package func isServiceTaken(_ service: ServiceID, localIndex: Int) -> Bool {
        guard let gid = gid(at: localIndex) else { return false }
        var name = SlotName(address: gid)
        name.setService(service)
        return isTaken(name)
    }

    /// Hands a datagram of the last batch to the process that serves a service on its local address. What its mailbox has
    /// no room for is kept for a while.
    /// - Returns: `false` where no other process serves it.
    package mutating func forward(_ datagram: Datagram, toService service: ServiceID) -> Bool {
        guard gid(at: datagram.localIndex) != nil, !serves(service, localIndex: datagram.localIndex) else {
            return false
        }
        let header = Self.header(of: datagram)
        switch unsafe tryPosting(
            header, bytes: datagram.base, count: datagram.byteCount, localIndex: datagram.localIndex, to: service)
        {
        case .done: return true
        // Whatever went wrong: as long as somebody serves it, nobody else is to say that nobody does.
        case .lost: return isServiceTaken(service, localIndex: datagram.localIndex)
        case .full: break
        }
        let isKept = unsafe backlog.append(
            header, bytes: datagram.base, count: datagram.byteCount, localIndex: datagram.localIndex, target: 0,
            service: service, expires: clinuxnet_monotonic_nanoseconds() + options.handOverLifetimeNanoseconds)
        if !isKept { counters.forwardFailed += 1 }
        isMaintenanceDue = true
        return true
    }

    /// Whether a living process has a slot of a local address.
    package func isSlotTaken(_ slot: UInt8, localIndex: Int) -> Bool {
        guard let gid = gid(at: localIndex), SlotClaim.slots.contains(slot) else { return false }
        var name = SlotName(address: gid)
        name.setSlot(slot)
        return isTaken(name)
    }

    private func isTaken(_ name: borrowing SlotName) -> Bool {
        guard let probe = try? FileDescriptor(socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket(AF_UNIX)")
        else { return false }
        return name.isTaken(probe: probe.number)
    }

    mutating func tryPosting(
        _ header: PeerMessage, bytes: UnsafeRawPointer?, count: Int, localIndex: Int, to service: ServiceID
    ) -> Posting {
        guard let gid = gid(at: localIndex), let descriptor = unsafe addresses[localIndex].mailbox?.descriptor else {
            return .lost
        }
        var name = SlotName(address: gid)
        name.setService(service)
        let isSent = unsafe outbox.handOver(header, bytes: bytes, count: count, from: descriptor, to: name)
        return settlePosting(isSent, header)
    }

    private func serves(_ service: ServiceID, localIndex: Int) -> Bool {
        (0..<Self.servicesMax).contains {
            guard let entry = unsafe services[$0].entry else { return false }
            return entry.service == service && entry.localIndex == localIndex
        }
    }
}
