// SPDX-License-Identifier: Apache-2.0
import CVerbsABI

/// What a completion says of a frame that a raw packet queue pair received, besides its length.
///
/// On the kernel's devices `ibv_poll_cq` tells of the checksum alone; the software device tells the rest in fields that mean nothing
/// for raw packets.
@frozen public struct FrameDescription: Hashable, Sendable {
    /// The mark of the flow rule: ``FlowRule/tag``.
    public let tag: UInt32?
    /// Priority, drop eligibility and VLAN (12 bits) of the first 802.1Q tag. The frame has the tag, too.
    public let vlanTag: UInt16?
    /// When the frame came, in nanoseconds since 1970; of the adapter's clock or the kernel's.
    public let timestamp: UInt64?
    /// The checksums of IP, TCP and UDP are right. If not, nobody looked, or they are wrong. The corresponding C flag is
    /// `IBV_WC_IP_CSUM_OK`.
    public let isChecksumRight: Bool

    @inlinable init(_ native: cverbs_wc) {
        // As RoCETransport.FrameFacts lays them out, with 0x80 where they are.
        let fields = native.dlid_path_bits & 0x80 != 0 ? native.dlid_path_bits : 0
        tag = fields & 1 != 0 ? native.src_qp : nil
        vlanTag = fields & 2 != 0 ? native.slid : nil
        timestamp =
            fields & 4 != 0
            ? UInt64(native.vendor_err) << 32 | UInt64(native.imm_data_or_invalidated_rkey) : nil
        isChecksumRight = native.wc_flags & 4 != 0
    }
}
