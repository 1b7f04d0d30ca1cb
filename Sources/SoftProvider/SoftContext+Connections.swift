// SPDX-License-Identifier: Apache-2.0
import Glibc
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

// What the connection manager needs of a device.
extension SoftContext {
    /// Enters the communication management for a control call, and carries out what it wants.
    func withConnections<Result>(
        _ verb: StaticString, _ body: (inout ProgressCore, UInt64) throws(EngineError) -> Result
    ) throws(ProviderError) -> Result {
        let (outcome, deadline) = withCore { core -> (Swift.Result<Result, EngineError>, UInt64) in
            let now = core.clock.read()
            let outcome: Swift.Result<Result, EngineError>
            do throws(EngineError) {
                outcome = .success(try body(&core, now))
            } catch {
                outcome = .failure(error)
            }
            core.sendManagementDatagrams()
            core.noteConnections()
            core.sendRound(now: now)
            deliverEvents(of: &core)
            return (outcome, core.deadline(now: now))
        }
        // It may have come nearer.
        progressThread.expect(deadline)
        do throws(EngineError) {
            return try outcome.get()
        } catch {
            throw ProviderError(verb, error)
        }
    }

    /// Hands the events of the communication management to the identifiers that their tags name. An identifier that is
    /// destroyed has let go of its communication before, under the same lock.
    @inline(never)
    func deliverConnectionEvents(of core: inout ProgressCore) {
        while let event = core.connections.nextEvent() {
            guard let native = unsafe UnsafeMutablePointer<rdma_cm_id>(bitPattern: event.tag) else { continue }
            let identifier = unsafe SoftIdentifier.of(native)
            SoftConnectionPath.deliver(event, to: identifier, on: self, &core)
        }
        core.noteConnections()
    }

    /// `sin6_scope_id` of a link-local address of the device.
    func scope(of address: GID) -> UInt32 { address.isLinkLocal ? UInt32(interfaceIndex) : 0 }

    /// The index of an address in the GID table.
    func localIndex(of address: GID) -> Int? { gids.firstIndex(of: address) }

    package func attach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError) {
        let group = gid.gid
        let qpn = QPN(truncating: unsafe queuePair.pointee.qp_num)
        try changeGroup("ibv_attach_mcast") { core throws(ProviderError) in
            try Self.engineCall("ibv_attach_mcast") { () throws(EngineError) in
                try core.engine.attachMulticast(qpn, group: group)
            }
            do throws(PacketIOError) {
                let index = self.gids.firstIndex { $0.isIPv4Mapped == group.isIPv4Mapped } ?? 0
                try core.link.joinGroup(group, localIndex: index)
            } catch {
                try? core.engine.detachMulticast(qpn, group: group)
                throw ProviderError("ibv_attach_mcast", error)
            }
        }
    }

    package func detach(
        _ queuePair: UnsafeMutablePointer<ibv_qp>, multicast gid: ibv_gid, lid: UInt16
    ) throws(ProviderError) {
        let group = gid.gid
        let qpn = QPN(truncating: unsafe queuePair.pointee.qp_num)
        try changeGroup("ibv_detach_mcast") { core throws(ProviderError) in
            try Self.engineCall("ibv_detach_mcast") { () throws(EngineError) in
                try core.engine.detachMulticast(qpn, group: group)
            }
            core.link.leaveGroup(group)
        }
    }

    private func changeGroup(
        _ verb: StaticString, _ body: (inout ProgressCore) throws(ProviderError) -> Void
    ) throws(ProviderError) {
        let outcome: Result<Void, ProviderError> = withCore { core in
            do throws(ProviderError) {
                return .success(try body(&core))
            } catch {
                return .failure(error)
            }
        }
        try outcome.get()
    }

    private static func engineCall(
        _ verb: StaticString, _ body: () throws(EngineError) -> Void
    ) throws(ProviderError) {
        do throws(EngineError) {
            try body()
        } catch {
            throw ProviderError(verb, error)
        }
    }
}
