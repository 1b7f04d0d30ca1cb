// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO
import RoCETransport
import RoCEWire

/// The checks of what raw packet queue pairs send: of the environment, of who lends the socket, and of programs. A frame has to pass all
/// that are of its queue pair.
///
/// The memory of a frame is the application's, and may change at any time. So its headers are copied here, the copy is judged, and
/// the copy leaves in front of the rest.
@safe struct SourceChecks: ~Copyable {
    private let ethernet: MACAddress
    private let addresses: [GID]
    /// Without a queue pair: of all.
    private var checks: [(qpn: QPN?, check: SourceCheck)] = []
    /// ``SourceCheck/headerByteCountMax`` bytes for each frame of a batch, from the first check on; freed in `deinit`.
    private var headers: UnsafeMutableRawPointer?

    init(_ interface: NetworkInterface) {
        let octets = interface.hardwareAddress
        ethernet = MACAddress(truncating: octets.reduce(0) { $0 << 8 | UInt64($1) })
        addresses = interface.addresses.map(\.gid)
    }

    deinit { unsafe headers?.deallocate() }

    /// Nothing is judged.
    var isEmpty: Bool { checks.isEmpty }

    /// From now on frames of all queue pairs have to pass a check, or those of one, instead of the check that it had.
    mutating func add(_ check: SourceCheck, for qpn: QPN? = nil) {
        if let qpn { remove(for: qpn) }
        checks.append((qpn, check.resolved(ethernet: ethernet, addresses: addresses)))
        if unsafe headers == nil {
            unsafe headers = .allocate(
                byteCount: FrameBatch.frameCountMax * SourceCheck.headerByteCountMax, alignment: 64)
        }
    }

    /// A queue pair is reset or goes, and what was asked for it alone.
    mutating func remove(for qpn: QPN) {
        if !checks.isEmpty { checks.removeAll { $0.qpn == qpn } }
    }

    /// Judges the frames of a batch, and leaves the first that may not be sent, with all behind it, for the next.
    /// - Returns: what is wrong with a frame that may not be sent and is the first; `nil` where what is left may be sent.
    mutating func screen(_ batch: inout FrameBatch) -> SourceVerdict? {
        let qpn = batch.qpn
        guard let headers = unsafe headers, checks.contains(where: { $0.qpn == nil || $0.qpn == qpn }) else {
            return nil
        }
        let limit = SourceCheck.headerByteCountMax
        for frame in 0..<batch.count {
            unsafe batch.detachHead(of: frame, into: headers + frame * limit, limit: limit)
        }
        var count = batch.count
        var refusal: SourceVerdict?
        // References are counted for each check here, not for each frame.
        for (owner, check) in checks where owner == nil || owner == qpn {
            for frame in 0..<count {
                // The copy, which nobody writes to until the next batch.
                let head = unsafe batch.pieces[frame * batch.pieceCountMax]
                let header = unsafe RawSpan(_unsafeStart: headers + frame * limit, byteCount: head.byteCount)
                let verdict = check.verdict(on: header)
                if case .allowed = verdict { continue }
                refusal = verdict
                count = frame
                break
            }
        }
        if count == 0 { return refusal }
        batch.cut(before: count)
        return nil
    }
}
