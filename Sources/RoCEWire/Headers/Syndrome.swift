// SPDX-License-Identifier: Apache-2.0

/// The syndrome of an AETH: acknowledged, not ready, or refused and why.
public struct Syndrome: RawRepresentable, Hashable, Sendable {
    /// Bit 7 zero, bits 6...5 the kind, bits 4...0 its value.
    public let rawValue: UInt8

    /// A syndrome, known or not.
    @inlinable @inline(__always)
    public init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// What a syndrome says.
    public enum Meaning: Hashable, Sendable {
        /// Acknowledged. The value is a code of end-to-end credits, 0x1F if those are not in use; treat every code as
        /// that.
        case acknowledged(creditCode: UInt8)
        /// Receiver not ready: try again after the time.
        case receiverNotReady(RNRTimer)
        /// Refused.
        case refused(NAKCode)
        /// Reserved: drop the packet.
        case reserved
    }

    /// The syndrome taken apart.
    @inlinable @inline(__always)
    public var meaning: Meaning {
        switch rawValue >> 5 {
        case 0: .acknowledged(creditCode: rawValue & 0x1F)
        case 1: .receiverNotReady(RNRTimer(truncating: rawValue))
        case 3: .refused(NAKCode(rawValue: rawValue & 0x1F))
        default: .reserved
        }
    }

    /// 0x1F: acknowledged, end-to-end credits not in use. What rxe and we always send.
    @inlinable public static var acknowledged: Syndrome { Syndrome(rawValue: 0x1F) }

    /// 0x20...0x3F: receiver not ready.
    @inlinable
    public static func receiverNotReady(_ timer: RNRTimer) -> Syndrome { Syndrome(rawValue: 0x20 | timer.code) }

    /// 0x60...0x7F: refused.
    @inlinable
    public static func refused(_ code: NAKCode) -> Syndrome { Syndrome(rawValue: 0x60 | code.rawValue & 0x1F) }

    /// Why a responder refuses a request. Unknown codes are kept.
    public struct NAKCode: RawRepresentable, Hashable, Sendable {
        /// The low five bits of the syndrome.
        public let rawValue: UInt8

        /// A code, known or not.
        @inlinable @inline(__always)
        public init(rawValue: UInt8) {
            self.rawValue = rawValue
        }

        /// A packet is missing; the NAK's PSN is the one that is expected.
        @inlinable public static var sequenceError: NAKCode { NAKCode(rawValue: 0) }
        /// Invalid request (completes with `IBV_WC_REM_INV_REQ_ERR`).
        @inlinable public static var invalidRequest: NAKCode { NAKCode(rawValue: 1) }
        /// Remote access error (`IBV_WC_REM_ACCESS_ERR`).
        @inlinable public static var remoteAccessError: NAKCode { NAKCode(rawValue: 2) }
        /// Remote operational error (`IBV_WC_REM_OP_ERR`).
        @inlinable public static var remoteOperationalError: NAKCode { NAKCode(rawValue: 3) }
        /// Invalid RD request: reliable datagrams only.
        @inlinable public static var invalidRDRequest: NAKCode { NAKCode(rawValue: 4) }
    }
}

extension Syndrome: CustomStringConvertible {
    /// The meaning in words, and the byte.
    public var description: String {
        let text =
            switch meaning {
            case .acknowledged: "ACK"
            case .receiverNotReady(let timer): "RNR NAK \(timer)"
            case .refused(.sequenceError): "NAK sequence error"
            case .refused(.invalidRequest): "NAK invalid request"
            case .refused(.remoteAccessError): "NAK remote access error"
            case .refused(.remoteOperationalError): "NAK remote operational error"
            case .refused: "NAK"
            case .reserved: "reserved"
            }
        return "\(text) (0x\(rawValue < 16 ? "0" : "")\(String(rawValue, radix: 16)))"
    }
}
