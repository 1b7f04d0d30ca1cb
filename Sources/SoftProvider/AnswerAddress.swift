// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCEWire
import VerbsABI

extension SoftContext {
    /// How to answer a datagram, from the 40 bytes in front of it. The corresponding C function is `ibv_init_ah_from_wc`.
    package func answerAddress(
        port: UInt8, serviceLevel: UInt8, header: UnsafeRawPointer
    ) throws(ProviderError) -> ibv_ah_attr {
        // The caller's buffer, whose first 40 bytes the device has written.
        let bytes = unsafe RawSpan(_unsafeStart: header, byteCount: RouteHeaderArea.byteCount)
        var attributes = ibv_ah_attr()
        let local: GID
        if bytes.loadBigEndian(UInt8.self, at: 20) == 0x45, bytes.loadBigEndian(UInt8.self, at: 0) >> 4 != 6 {
            attributes.grh.dgid = ibv_gid(GID(ipv4: bytes.loadBigEndian(UInt32.self, at: 32)))
            attributes.grh.traffic_class = bytes.loadBigEndian(UInt8.self, at: 21)
            local = GID(ipv4: bytes.loadBigEndian(UInt32.self, at: 36))
        } else {
            attributes.grh.dgid = ibv_gid(gid(in: bytes, at: 8))
            attributes.grh.traffic_class = UInt8(truncatingIfNeeded: bytes.loadBigEndian(UInt32.self, at: 0) >> 20)
            attributes.grh.flow_label = bytes.loadBigEndian(UInt32.self, at: 0) & 0xF_FFFF
            local = gid(in: bytes, at: 24)
        }
        // To a group: any address of ours will do.
        guard let index = local.isMulticast ? gids.indices.first : gids.firstIndex(of: local) else {
            throw ProviderError(
                "ibv_init_ah_from_wc", code: EINVAL, detail: "\(local) of the datagram is no address of the device")
        }
        attributes.grh.sgid_index = UInt8(truncatingIfNeeded: index)
        // The received limit says how far the datagram came, not how far the answer may go.
        attributes.grh.hop_limit = 0xFF
        attributes.is_global = 1
        attributes.sl = serviceLevel
        attributes.port_num = port
        return attributes
    }
}

private func gid(in bytes: RawSpan, at offset: Int) -> GID {
    GID(high: bytes.loadBigEndian(UInt64.self, at: offset), low: bytes.loadBigEndian(UInt64.self, at: offset + 8))
}
