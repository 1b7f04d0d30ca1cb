// SPDX-License-Identifier: Apache-2.0

/// What a completion says of a frame that a raw packet queue pair received, besides its length.
///
/// `struct ibv_wc` has no fields for most of it. A completion carries it in fields that mean nothing for raw packets:
///
/// ```
/// field of ibv_wc     of a received frame
/// src_qp              the tag of the rule
/// slid                the VLAN tag (TCI)
/// imm_data            lower half of the timestamp
/// vendor_err          upper half of the timestamp
/// dlid_path_bits      which of these are valid: the bits of Fields, and 0x80 for a frame
/// wc_flags            IBV_WC_IP_CSUM_OK
/// ```
public struct FrameFacts: Sendable, BitwiseCopyable, Equatable {
    /// Which facts are known.
    public struct Fields: OptionSet, Sendable, BitwiseCopyable {
        /// The bits.
        public let rawValue: UInt8
        /// A value from its bits.
        @inlinable public init(rawValue: UInt8) { self.rawValue = rawValue }

        /// ``FrameFacts/tag`` is one.
        @inlinable public static var tag: Self { Self(rawValue: 1) }
        /// ``FrameFacts/vlanTag`` is one.
        @inlinable public static var vlanTag: Self { Self(rawValue: 2) }
        /// ``FrameFacts/timestamp`` is one.
        @inlinable public static var timestamp: Self { Self(rawValue: 4) }
        /// The checksums of IP, TCP and UDP were found right.
        @inlinable public static var checksumIsRight: Self { Self(rawValue: 8) }
    }

    /// Which of the other members are valid.
    public var fields: Fields
    /// The mark of the flow rule.
    public var tag: UInt32
    /// Priority, drop eligibility and VLAN of the first 802.1Q tag; the frame has it, too.
    public var vlanTag: UInt16
    /// When the frame came: nanoseconds of CLOCK_REALTIME.
    public var timestamp: UInt64

    /// Nothing is known.
    @inlinable public init() {
        fields = []
        tag = 0
        vlanTag = 0
        timestamp = 0
    }
}

extension CompletionEntry {
    /// The facts of a received frame; see ``FrameFacts`` for where they stand.
    @inlinable public var frame: FrameFacts {
        get {
            var facts = FrameFacts()
            facts.fields = FrameFacts.Fields(rawValue: destinationPathBits & 0x7F)
            facts.tag = sourceQPN
            facts.vlanTag = sourceLID
            facts.timestamp = UInt64(vendorError) << 32 | UInt64(immediate)
            return facts
        }
        set {
            destinationPathBits = newValue.fields.rawValue | 0x80
            sourceQPN = newValue.tag
            sourceLID = newValue.vlanTag
            immediate = UInt32(truncatingIfNeeded: newValue.timestamp)
            vendorError = UInt32(truncatingIfNeeded: newValue.timestamp >> 32)
            if newValue.fields.contains(.checksumIsRight) { flags.insert(.checksumIsRight) }
        }
    }
}
