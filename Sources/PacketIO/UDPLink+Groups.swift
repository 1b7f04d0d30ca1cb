// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

// Multicast and broadcast, for UD queue pairs.
extension UDPLink {
    /// Starts to receive what is sent to a multicast group on the link's interface, or to a broadcast address. Joins are
    /// counted: as many leaves end it. The kernel gives each process that joined its own copy, so nothing is handed over.
    ///
    /// What the link itself sends to the group comes back too.
    /// - Parameter localIndex: the local address that a datagram is said to have been received at.
    package mutating func joinGroup(_ group: GID, localIndex: Int) throws(PacketIOError) {
        if let index = groupIndex(group) {
            unsafe groups[index]!.members += 1
            return
        }
        guard let state = address(at: localIndex) else { throw .invalid("no local address \(localIndex)") }
        guard state.gid.isIPv4Mapped == group.isIPv4Mapped else {
            throw .invalid("group \(group.addressText) is not of the family of \(state.gid.addressText)")
        }
        guard let index = (0..<Self.groupsMax).first(where: { groupLocalIndex($0) == nil }) else {
            throw .limit(what: "multicast groups", maximum: Self.groupsMax)
        }
        // The scope of a group address is the interface.
        let scope = group.isIPv4Mapped ? 0 : UInt32(interfaceIndex)
        let made = try UDPSocket.makeReceiver(group, scope: scope, bufferBytes: options.socketBufferBytes)
        guard let number = made.number else { throw .portInUse(address: group) }
        if group.isMulticast { try join(group, number) }
        try watch(number, PollToken.make(PollToken.group, index))
        guard let socket = consume made else { return }
        unsafe groups[index] = LinkGroup(gid: group, localIndex: localIndex, socket: socket, members: 1)
    }

    /// Ends one join. A group that was not joined is ignored.
    package mutating func leaveGroup(_ group: GID) {
        guard let index = groupIndex(group) else { return }
        unsafe groups[index]!.members -= 1
        if unsafe groups[index]!.members == 0 {
            unsafe groups[index] = nil
            if hot.token == PollToken.make(PollToken.group, index) { hot = HotSocket() }
        }
    }

    func groupIndex(_ group: GID) -> Int? {
        (0..<Self.groupsMax).first { unsafe groups[$0].entry?.gid == group }
    }

    /// The local index of a group's entry; `nil` where the entry is free.
    func groupLocalIndex(_ index: Int) -> Int? { unsafe groups[index].entry?.localIndex }

    private func join(_ group: GID, _ descriptor: Int32) throws(PacketIOError) {
        let result: Int32
        if group.isIPv4Mapped {
            var request = ip_mreqn()
            request.imr_multiaddr.s_addr = group.ipv4.bigEndian
            request.imr_ifindex = Int32(interfaceIndex)
            result = unsafe setsockopt(
                descriptor, Int32(IPPROTO_IP), IP_ADD_MEMBERSHIP, &request, UInt32(MemoryLayout<ip_mreqn>.size))
        } else {
            var request = ipv6_mreq()
            unsafe withUnsafeMutableBytes(of: &request.ipv6mr_multiaddr) { bytes in
                unsafe bytes.storeBytes(of: group.high.bigEndian, as: UInt64.self)
                unsafe bytes.storeBytes(of: group.low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
            request.ipv6mr_interface = UInt32(interfaceIndex)
            result = unsafe setsockopt(
                descriptor, Int32(IPPROTO_IPV6), IPV6_ADD_MEMBERSHIP, &request, UInt32(MemoryLayout<ipv6_mreq>.size))
        }
        guard result == 0 else { throw SystemError.last("setsockopt(join \(group.addressText))") }
    }
}
