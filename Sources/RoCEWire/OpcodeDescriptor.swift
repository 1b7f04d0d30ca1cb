// SPDX-License-Identifier: Apache-2.0

/// What an opcode means: a trivial value of 32 bits, so that looking it up and asking it costs next to nothing.
///
/// The table is total: an opcode without a meaning here (RD, vendors', reserved) gives the value with
/// ``isKnown`` false, and nothing else may be asked of such a packet. The kernel learnt that by CVE-2026-46133.
public struct OpcodeDescriptor: Hashable, Sendable {
    /// The service that a packet belongs to.
    public enum Transport: UInt8, Sendable {
        /// None known.
        case unknown
        /// Reliable connection.
        case rc
        /// Unreliable connection.
        case uc
        /// Unreliable datagram.
        case ud
        /// Extended reliable connection.
        case xrc
        /// No service: a congestion notification, which any queue pair may get.
        case none
    }

    /// What a packet asks or answers.
    public enum Operation: UInt8, Sendable {
        /// None known.
        case unknown
        /// SEND, with or without immediate or invalidate.
        case send
        /// RDMA WRITE, with or without immediate.
        case write
        /// RDMA READ request.
        case readRequest
        /// RDMA READ response; the answer to FLUSH and ATOMIC WRITE as well.
        case readResponse
        /// ACK, RNR NAK or NAK.
        case acknowledge
        /// The answer to an atomic operation.
        case atomicAcknowledge
        /// Atomic compare and swap.
        case compareSwap
        /// Atomic fetch and add.
        case fetchAdd
        /// ATOMIC WRITE of 8 bytes.
        case atomicWrite
        /// FLUSH of earlier writes to memory or to persistence.
        case flush
        /// Congestion notification.
        case congestionNotification
    }

    /// Where in its message a packet stands.
    public enum Position: UInt8, Sendable {
        /// It starts a message of several packets; its payload is exactly the path MTU.
        case first
        /// It neither starts nor ends; its payload is exactly the path MTU.
        case middle
        /// It ends a message of several packets, with 1 byte to the path MTU.
        case last
        /// It is a message, with 0 bytes to the path MTU.
        case only
    }

    /// Which extension headers follow the BTH. On the wire they stand in the order of declaration.
    public struct Headers: OptionSet, Hashable, Sendable {
        /// One bit for each header.
        public let rawValue: UInt16

        /// A set with these bits.
        @inlinable @inline(__always)
        public init(rawValue: UInt16) {
            self.rawValue = rawValue
        }

        /// Extended reliable connection header.
        @inlinable public static var xrceth: Headers { Headers(rawValue: 256) }
        /// Datagram extension header.
        @inlinable public static var deth: Headers { Headers(rawValue: 1) }
        /// FLUSH extension header.
        @inlinable public static var feth: Headers { Headers(rawValue: 2) }
        /// RDMA extension header.
        @inlinable public static var reth: Headers { Headers(rawValue: 4) }
        /// Atomic extension header.
        @inlinable public static var atomicETH: Headers { Headers(rawValue: 8) }
        /// Acknowledge extension header.
        @inlinable public static var aeth: Headers { Headers(rawValue: 16) }
        /// Atomic acknowledge extension header.
        @inlinable public static var atomicAckETH: Headers { Headers(rawValue: 32) }
        /// Immediate data.
        @inlinable public static var immDt: Headers { Headers(rawValue: 64) }
        /// Invalidate extension header.
        @inlinable public static var ieth: Headers { Headers(rawValue: 128) }

        /// The bytes of the headers in the set.
        @inlinable @inline(__always)
        var byteCount: Int {
            (contains(.xrceth) ? XRCETH.byteCount : 0)
                + (contains(.deth) ? DETH.byteCount : 0) + (contains(.feth) ? FETH.byteCount : 0)
                + (contains(.reth) ? RETH.byteCount : 0) + (contains(.atomicETH) ? AtomicETH.byteCount : 0)
                + (contains(.aeth) ? AETH.byteCount : 0) + (contains(.atomicAckETH) ? AtomicAckETH.byteCount : 0)
                + (contains(.immDt) ? ImmDt.byteCount : 0) + (contains(.ieth) ? IETH.byteCount : 0)
        }
    }

    /// What the payload of a packet may be, as far as the opcode alone says. The raw value counts units of 8 bytes,
    /// plus one.
    @usableFromInline enum PayloadRule: UInt8 {
        /// Any length; the queue pair compares it with the path MTU, because a violation earns a NAK.
        case any
        /// None.
        case none
        /// 8 bytes: ATOMIC WRITE.
        case eight
        /// 16 bytes, reserved: the congestion notification.
        case sixteen
    }

    // bits 0-2 transport, 3-6 operation, 7-8 position, 9-17 extension headers, 18-23 header bytes, 24-25 payload rule,
    // 26 request, 27 response
    @usableFromInline let bits: UInt32

    @inlinable @inline(__always)
    init(
        _ transport: Transport, _ operation: Operation, _ position: Position, _ headers: Headers,
        payload: PayloadRule = .any
    ) {
        let length = BTH.byteCount + headers.byteCount
        let direction: UInt32 =
            switch operation {
            case .unknown, .congestionNotification: 0
            case .readResponse, .acknowledge, .atomicAcknowledge: 2
            case .send, .write, .readRequest, .compareSwap, .fetchAdd, .atomicWrite, .flush: 1
            }
        bits =
            UInt32(transport.rawValue) | UInt32(operation.rawValue) << 3 | UInt32(position.rawValue) << 7
            | UInt32(headers.rawValue) << 9 | UInt32(length) << 18 | UInt32(payload.rawValue) << 24 | direction << 26
    }

    /// Whether the opcode has a meaning here.
    @inlinable @inline(__always)
    public var isKnown: Bool { bits & 0x7 != 0 }

    // The switches below are the identity on the raw values, and the compiler makes that of them. `init(rawValue:)`, which
    // the compiler itself writes, would be a call from another module.

    /// The service.
    @inlinable @inline(__always)
    public var transport: Transport {
        switch bits & 0x7 {
        case 1: .rc
        case 2: .uc
        case 3: .ud
        case 4: .xrc
        case 5: .none
        default: .unknown
        }
    }

    /// What the packet asks or answers.
    @inlinable @inline(__always)
    public var operation: Operation {
        switch bits >> 3 & 0xF {
        case 1: .send
        case 2: .write
        case 3: .readRequest
        case 4: .readResponse
        case 5: .acknowledge
        case 6: .atomicAcknowledge
        case 7: .compareSwap
        case 8: .fetchAdd
        case 9: .atomicWrite
        case 10: .flush
        case 11: .congestionNotification
        default: .unknown
        }
    }

    /// Where in its message the packet stands.
    @inlinable @inline(__always)
    public var position: Position {
        switch bits >> 7 & 0x3 {
        case 0: .first
        case 1: .middle
        case 2: .last
        default: .only
        }
    }

    /// The extension headers.
    @inlinable @inline(__always)
    public var headers: Headers { Headers(rawValue: UInt16(truncatingIfNeeded: bits >> 9 & 0x1FF)) }

    /// The bytes of BTH and extension headers, 12...44: where the payload starts.
    @inlinable @inline(__always)
    public var headerByteCount: Int { Int(bits >> 18 & 0x3F) }

    /// The only payload that the opcode may have, in bytes; `nil` if it is the queue pair's to judge.
    @inlinable @inline(__always)
    public var exactPayloadByteCount: Int? {
        let rule = Int(bits >> 24 & 0x3)
        return rule == 0 ? nil : (rule &- 1) &* 8
    }

    /// Whether it starts a message: first or only.
    @inlinable @inline(__always)
    public var startsMessage: Bool { position == .first || position == .only }

    /// Whether it ends a message: last or only.
    @inlinable @inline(__always)
    public var endsMessage: Bool { position == .last || position == .only }

    /// Whether it is for a responder; a response is for a requester, a congestion notification for neither.
    @inlinable @inline(__always)
    public var isRequest: Bool { bits & 1 << 26 != 0 }

    /// Whether it is for a requester: READ response, acknowledge, atomic acknowledge.
    @inlinable @inline(__always)
    public var isResponse: Bool { bits & 1 << 27 != 0 }
}

extension Opcode {
    /// The meaning of the opcode, known or not.
    @inlinable @inline(__always)
    public var descriptor: OpcodeDescriptor { rawValue < 0x2C ? connectedDescriptor : otherDescriptor }

    /// RC and UC: dense enough that the compiler makes a table of constants of it.
    @inlinable @inline(__always)
    var connectedDescriptor: OpcodeDescriptor {
        switch rawValue {
        case 0x00: .init(.rc, .send, .first, [])
        case 0x01: .init(.rc, .send, .middle, [])
        case 0x02: .init(.rc, .send, .last, [])
        case 0x03: .init(.rc, .send, .last, .immDt)
        case 0x04: .init(.rc, .send, .only, [])
        case 0x05: .init(.rc, .send, .only, .immDt)
        case 0x06: .init(.rc, .write, .first, .reth)
        case 0x07: .init(.rc, .write, .middle, [])
        case 0x08: .init(.rc, .write, .last, [])
        case 0x09: .init(.rc, .write, .last, .immDt)
        case 0x0A: .init(.rc, .write, .only, .reth)
        case 0x0B: .init(.rc, .write, .only, [.reth, .immDt])
        case 0x0C: .init(.rc, .readRequest, .only, .reth, payload: .none)
        case 0x0D: .init(.rc, .readResponse, .first, .aeth)
        case 0x0E: .init(.rc, .readResponse, .middle, [])
        case 0x0F: .init(.rc, .readResponse, .last, .aeth)
        case 0x10: .init(.rc, .readResponse, .only, .aeth)
        case 0x11: .init(.rc, .acknowledge, .only, .aeth, payload: .none)
        case 0x12: .init(.rc, .atomicAcknowledge, .only, [.aeth, .atomicAckETH], payload: .none)
        case 0x13: .init(.rc, .compareSwap, .only, .atomicETH, payload: .none)
        case 0x14: .init(.rc, .fetchAdd, .only, .atomicETH, payload: .none)
        case 0x16: .init(.rc, .send, .last, .ieth)
        case 0x17: .init(.rc, .send, .only, .ieth)
        case 0x1C: .init(.rc, .flush, .only, [.feth, .reth], payload: .none)
        case 0x1D: .init(.rc, .atomicWrite, .only, .reth, payload: .eight)
        case 0x20: .init(.uc, .send, .first, [])
        case 0x21: .init(.uc, .send, .middle, [])
        case 0x22: .init(.uc, .send, .last, [])
        case 0x23: .init(.uc, .send, .last, .immDt)
        case 0x24: .init(.uc, .send, .only, [])
        case 0x25: .init(.uc, .send, .only, .immDt)
        case 0x26: .init(.uc, .write, .first, .reth)
        case 0x27: .init(.uc, .write, .middle, [])
        case 0x28: .init(.uc, .write, .last, [])
        case 0x29: .init(.uc, .write, .last, .immDt)
        case 0x2A: .init(.uc, .write, .only, .reth)
        case 0x2B: .init(.uc, .write, .only, [.reth, .immDt])
        default: .init(.unknown, .unknown, .only, [])
        }
    }

    /// UD, the congestion notification, and XRC.
    @inlinable @inline(__always)
    var otherDescriptor: OpcodeDescriptor {
        switch rawValue {
        case 0x64: .init(.ud, .send, .only, .deth)
        case 0x65: .init(.ud, .send, .only, [.deth, .immDt])
        case 0x81: .init(.none, .congestionNotification, .only, [], payload: .sixteen)
        case 0xA0: .init(.xrc, .send, .first, .xrceth)
        case 0xA1: .init(.xrc, .send, .middle, .xrceth)
        case 0xA2: .init(.xrc, .send, .last, .xrceth)
        case 0xA3: .init(.xrc, .send, .last, [.xrceth, .immDt])
        case 0xA4: .init(.xrc, .send, .only, .xrceth)
        case 0xA5: .init(.xrc, .send, .only, [.xrceth, .immDt])
        case 0xA6: .init(.xrc, .write, .first, [.xrceth, .reth])
        case 0xA7: .init(.xrc, .write, .middle, .xrceth)
        case 0xA8: .init(.xrc, .write, .last, .xrceth)
        case 0xA9: .init(.xrc, .write, .last, [.xrceth, .immDt])
        case 0xAA: .init(.xrc, .write, .only, [.xrceth, .reth])
        case 0xAB: .init(.xrc, .write, .only, [.xrceth, .reth, .immDt])
        case 0xAC: .init(.xrc, .readRequest, .only, [.xrceth, .reth], payload: .none)
        case 0xAD: .init(.xrc, .readResponse, .first, .aeth)
        case 0xAE: .init(.xrc, .readResponse, .middle, [])
        case 0xAF: .init(.xrc, .readResponse, .last, .aeth)
        case 0xB0: .init(.xrc, .readResponse, .only, .aeth)
        case 0xB1: .init(.xrc, .acknowledge, .only, .aeth, payload: .none)
        case 0xB2: .init(.xrc, .atomicAcknowledge, .only, [.aeth, .atomicAckETH], payload: .none)
        case 0xB3: .init(.xrc, .compareSwap, .only, [.xrceth, .atomicETH], payload: .none)
        case 0xB4: .init(.xrc, .fetchAdd, .only, [.xrceth, .atomicETH], payload: .none)
        case 0xB6: .init(.xrc, .send, .last, [.xrceth, .ieth])
        case 0xB7: .init(.xrc, .send, .only, [.xrceth, .ieth])
        case 0xBC: .init(.xrc, .flush, .only, [.xrceth, .feth, .reth], payload: .none)
        case 0xBD: .init(.xrc, .atomicWrite, .only, [.xrceth, .reth], payload: .eight)
        default: .init(.unknown, .unknown, .only, [])
        }
    }
}

extension OpcodeDescriptor: CustomStringConvertible {
    /// `RC WRITE LAST with immediate`.
    public var description: String {
        guard isKnown else { return "unknown" }
        if operation == .congestionNotification { return "CNP" }
        let name =
            switch operation {
            case .unknown, .congestionNotification: ""
            case .send: "SEND"
            case .write: "WRITE"
            case .readRequest: "READ REQUEST"
            case .readResponse: "READ RESPONSE"
            case .acknowledge: "ACKNOWLEDGE"
            case .atomicAcknowledge: "ATOMIC ACKNOWLEDGE"
            case .compareSwap: "COMPARE SWAP"
            case .fetchAdd: "FETCH ADD"
            case .atomicWrite: "ATOMIC WRITE"
            case .flush: "FLUSH"
            }
        var text = "\(transport)".uppercased() + " " + name
        if operation == .send || operation == .write || operation == .readResponse {
            text += " " + "\(position)".uppercased()
        }
        if headers.contains(.immDt) { text += " with immediate" }
        if headers.contains(.ieth) { text += " with invalidate" }
        return text
    }
}
