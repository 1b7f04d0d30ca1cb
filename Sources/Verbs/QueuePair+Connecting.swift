// SPDX-License-Identifier: Apache-2.0
import VerbsABI

// States, as the connection manager wants them.
extension ConnectionIdentifier {
    /// Moves a fresh queue pair to where receives may be posted: INIT, and a UD queue pair on to RTS.
    ///
    /// Needs an identifier that has a device. `access` is what the peer may do through the queue pair; by default all that
    /// its transport can. The corresponding C function is `rdma_init_qp_attr`.
    public func prepare(_ queuePair: borrowing QueuePair, access: AccessFlags? = nil) throws(VerbsError) {
        var attributes = try queuePairAttributes(for: .initialized)
        switch queuePair.transport {
        case .reliableConnected: attributes.access = access ?? .remote
        case .unreliableConnected: attributes.access = access ?? [.localWrite, .remoteWrite]
        case .unreliableDatagram, .rawPacket: attributes.access = nil
        }
        try queuePair.modify(attributes)
        guard queuePair.transport == .unreliableDatagram else { return }
        try queuePair.modify(QueuePairAttributes(state: .readyToReceive))
        var sending = QueuePairAttributes(state: .readyToSend)
        sending.sendPSN = 0
        try queuePair.modify(sending)
    }

    /// Brings a prepared queue pair to RTS: before ``accept(_:_:)``, or after the event `connectResponse`.
    ///
    /// `depths` are what the two sides agreed on: reads and atomics outstanding from this side, and from the peer. Without
    /// them it is what the peer offers and the device can.
    /// `minRNRTimer` is how long the peer is asked to wait when no receive is posted, see
    /// ``QueuePairAttributes/minRNRTimer``: the connection manager itself would ask for 0, which is 655 ms.
    public func activate(
        _ queuePair: borrowing QueuePair, depths: (initiator: UInt8, responder: UInt8)? = nil, minRNRTimer: UInt8 = 12
    ) throws(VerbsError) {
        var receiving = try queuePairAttributes(for: .readyToReceive)
        if receiving.minRNRTimer != nil { receiving.minRNRTimer = minRNRTimer }
        let device = try queuePair.domain.context.attributes
        receiving.maxDestinationReads = receiving.maxDestinationReads.map {
            depths?.responder ?? min($0, UInt8(clamping: device.maxReadsAsTarget))
        }
        try queuePair.modify(receiving)
        var sending = try queuePairAttributes(for: .readyToSend)
        sending.maxReads = sending.maxReads.map {
            depths?.initiator ?? min($0, UInt8(clamping: device.maxReadsAsInitiator))
        }
        try queuePair.modify(sending)
    }
}

// Multicast.
extension QueuePair {
    /// Datagrams to a group that was joined come to this queue pair too (UD). The corresponding C function is
    /// `ibv_attach_mcast`.
    public func attach(to group: DatagramEndpoint) throws(VerbsError) {
        guard let gid = group.path.gid else { return }
        do throws(ProviderError) {
            try unsafe domain.context.path.attach(native, multicast: gid.native, lid: group.path.lid)
        } catch {
            throw VerbsError(error)
        }
    }

    /// Ends ``attach(to:)``; the end of a queue pair does not. The corresponding C function is `ibv_detach_mcast`.
    public func detach(from group: DatagramEndpoint) throws(VerbsError) {
        guard let gid = group.path.gid else { return }
        do throws(ProviderError) {
            try unsafe domain.context.path.detach(native, multicast: gid.native, lid: group.path.lid)
        } catch {
            throw VerbsError(error)
        }
    }
}
