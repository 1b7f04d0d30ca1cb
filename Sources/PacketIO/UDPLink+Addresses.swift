// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Opening, refreshing and closing the addresses of a link.
extension UDPLink {
    /// How often a port that another user's process had is tried again.
    static var retryBindNanoseconds: UInt64 { 500_000_000 }

    /// Takes the address set of the interface as it is now: addresses that are gone are closed, new ones opened. An
    /// address that stays keeps its index, its sockets and its groups.
    ///
    /// The corresponding kernel behaviour is the change of a device's GID table. New addresses that cannot be served go
    /// to ``refusals``.
    package mutating func refresh(addresses wanted: [NetworkInterface.Address]) {
        refusals = []
        for index in 0..<Self.addressesMax {
            guard let gid = unsafe addresses[index].gid, !wanted.contains(where: { $0.gid == gid }) else { continue }
            close(index)
        }
        for entry in wanted where index(of: entry.gid) == nil {
            do throws(PacketIOError) {
                if try !open(entry, slot: slot) { refusals.append((entry.gid, .noSlot(address: entry.gid))) }
            } catch {
                refusals.append((entry.gid, error))
            }
        }
        isMaintenanceDue = true
    }

    /// The local index of an address.
    package func index(of gid: GID) -> Int? {
        (0..<Self.addressesMax).first { unsafe addresses[$0].gid == gid }
    }

    /// Claims a slot that is free on every address, and opens them. The search starts at random, so that the queue pair
    /// numbers of a process that has just died are not used again at once.
    mutating func claimSlot(on wanted: [NetworkInterface.Address]) throws(PacketIOError) {
        var generator = SystemRandomNumberGenerator()
        let first = options.slot ?? UInt8.random(in: SlotClaim.slots, using: &generator)
        let tries = options.slot == nil ? SlotClaim.slots.count : 1
        candidates: for offset in 0..<tries {
            let candidate = UInt8((Int(first) - 1 + offset) % SlotClaim.slots.count + 1)
            refusals = []
            var opened = 0
            for entry in wanted {
                do throws(PacketIOError) {
                    guard try open(entry, slot: candidate) else {
                        for index in 0..<Self.addressesMax { close(index) }
                        continue candidates
                    }
                    opened += 1
                } catch {
                    refusals.append((entry.gid, error))
                }
            }
            guard opened > 0 else { throw .noAddress(first: refusals.first?.error) }
            slot = candidate
            return
        }
        throw .noSlot(address: wanted.first?.gid ?? .zero)
    }

    /// Opens one address; `false` where the slot is taken on it.
    private mutating func open(_ entry: NetworkInterface.Address, slot: UInt8) throws(PacketIOError) -> Bool {
        guard let index = (0..<Self.addressesMax).first(where: { unsafe addresses[$0].isVacant }) else {
            throw .limit(what: "addresses", maximum: Self.addressesMax)
        }
        guard let claim = try SlotClaim(address: entry.gid, slot: slot, bufferBytes: options.socketBufferBytes) else {
            return false
        }
        let transmit = try UDPSocket.makeSender(
            entry.gid, scope: entry.scope, interface: interfaceIndex, bufferBytes: options.socketBufferBytes)
        let receiver = try UDPSocket.makeReceiver(
            entry.gid, scope: entry.scope, bufferBytes: options.socketBufferBytes)
        let others = try SlotClaim.living(on: entry.gid).count - 1
        var ownerUID: UInt32?
        let isBound = receiver != nil
        if !isBound {
            // Somebody who does not share with us. If it is one of ours under another user, it serves us.
            ownerUID = PortOwner.uid(of: entry.gid)
            guard others > 0, ownerUID != uid else { throw .portInUse(address: entry.gid) }
        }
        try watch(claim.socket.number, PollToken.make(PollToken.mailbox, index))
        if let receiver = receiver.number { try watch(receiver, PollToken.make(PollToken.receiver, index)) }
        let port = clinuxnet_local_port(transmit.number)
        unsafe addresses[index] = LinkAddress(
            gid: entry.gid, scope: entry.scope, claim: claim, transmit: transmit, sourcePort: port,
            receiver: receiver, ownerUID: ownerUID, peerName: SlotName(address: entry.gid),
            learner: SteeringLearner(joining: isBound && others > 0))
        noteSockets(of: index)
        noteAddress(entry.gid, isThere: true)
        excludeFrames(index)
        isMaintenanceDue = true
        return true
    }

    /// Closes an address: its slot is free at once.
    private mutating func close(_ index: Int) {
        for group in 0..<Self.groupsMax where groupLocalIndex(group) == index { unsafe groups[group] = nil }
        leaveHostPeers(localIndex: index)
        if let gid = gid(at: index) { noteAddress(gid, isThere: false) }
        unsafe addresses[index] = nil
        noteSockets(of: index)
        hot = HotSocket()
    }

    /// Tries port 4791 again where another user's process had it.
    mutating func retryBinding(_ index: Int) {
        guard let state = address(at: index), case .served = state.reception else { return }
        let made: FileDescriptor?
        do throws(PacketIOError) {
            made = try UDPSocket.makeReceiver(state.gid, scope: state.scope, bufferBytes: options.socketBufferBytes)
        } catch {
            return  // The address is going away, or memory is short: the next try will tell.
        }
        guard let number = made.number else {
            unsafe addresses[index]!.ownerUID = PortOwner.uid(of: state.gid)
            return
        }
        guard (try? watch(number, PollToken.make(PollToken.receiver, index))) != nil else { return }
        unsafe addresses[index]!.receiver = made
        noteSockets(of: index)
        excludeFrames(index)
        unsafe addresses[index]!.ownerUID = nil
        unsafe addresses[index]!.learner.want()
    }

    func watch(_ descriptor: Int32, _ token: UInt64) throws(PacketIOError) {
        guard
            clinuxnet_epoll_control(poll.number, clinuxnet_epoll_add, descriptor, clinuxnet_epoll_in, token) == 0
        else { throw SystemError.last("epoll_ctl") }
    }

    /// Brings what the data path reads of an address up to date: after each change of the entry.
    private mutating func noteSockets(of index: Int) {
        let sender = unsafe addresses[index].sender
        unsafe sockets[index] = unsafe AddressSockets(
            receiver: addresses[index].receiverNumber ?? -1, sender: sender?.descriptor ?? -1,
            scope: sender?.scope ?? 0, sourcePort: addresses[index].sourcePort ?? 0,
            gid: addresses[index].gid ?? .zero)
    }
}
