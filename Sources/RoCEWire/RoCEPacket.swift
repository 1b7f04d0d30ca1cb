// SPDX-License-Identifier: Apache-2.0

/// The headers of one packet and where its payload lies: a UDP payload from the BTH to the ICRC, taken apart.
///
/// The value is a copy: the headers are judged as they were when ``parse(_:)`` read them, even if the bytes lie in
/// memory that someone can still change. It is trivial (no reference, no allocation), and serves both directions.
///
/// ```
/// BTH | DETH  FETH  RETH  AtomicETH  AETH  AtomicAckETH  ImmDt  IETH | payload | pad 0...3 | ICRC 4
///       those of opcode.descriptor.headers, in this order
/// ```
/// An extension header that the opcode does not have is zero and is not emitted.
public struct RoCEPacket: Hashable, Sendable {
    /// The bytes of the ICRC behind the pad.
    @inlinable public static var icrcByteCount: Int { 4 }
    /// The shortest packet: a BTH and an ICRC.
    @inlinable public static var byteCountMin: Int { BTH.byteCount + 4 }

    /// The meaning of ``bth``'s opcode; always known in a parsed packet.
    public let descriptor: OpcodeDescriptor
    /// The base transport header.
    public var bth: BTH
    /// The bytes of payload, without pad and ICRC.
    public let payloadByteCount: Int

    /// Valid if the opcode has `.deth`.
    public var deth = DETH(queueKey: QueueKey(rawValue: 0), source: QPN(truncating: 0))
    /// Valid if the opcode has `.feth`.
    public var feth = FETH(rawValue: 0)
    /// Valid if the opcode has `.reth`.
    public var reth = RETH(virtualAddress: 0, rkey: MemoryKey(rawValue: 0), length: 0)
    /// Valid if the opcode has `.atomicETH`.
    public var atomicETH = AtomicETH(virtualAddress: 0, rkey: MemoryKey(rawValue: 0), swapOrAdd: 0, compare: 0)
    /// Valid if the opcode has `.aeth`.
    public var aeth = AETH(syndrome: Syndrome(rawValue: 0), msn: MSN(truncating: 0))
    /// Valid if the opcode has `.atomicAckETH`.
    public var atomicAckETH = AtomicAckETH(originalValue: 0)
    /// Valid if the opcode has `.immDt`.
    public var immDt = ImmDt(networkOrderValue: 0)
    /// Valid if the opcode has `.ieth`.
    public var ieth = IETH(rkey: MemoryKey(rawValue: 0))

    /// A packet to send with `payloadByteCount` bytes of payload. Sets the BTH's pad count; fill in the extension
    /// headers that the opcode has.
    @inlinable @inline(__always)
    public init(bth: BTH, payloadByteCount: Int) {
        self.bth = bth
        self.payloadByteCount = payloadByteCount
        descriptor = bth.opcode.descriptor
        self.bth.padCount = -payloadByteCount & 3
    }

    /// Where the payload starts in the UDP payload.
    @inlinable @inline(__always)
    public var payloadOffset: Int { descriptor.headerByteCount }

    /// The bytes of the UDP payload: headers, payload, pad and ICRC.
    @inlinable @inline(__always)
    public var byteCount: Int {
        descriptor.headerByteCount &+ payloadByteCount &+ bth.padCount &+ RoCEPacket.icrcByteCount
    }

    /// The bytes from the BTH that the ICRC covers, which is also where it lies.
    @inlinable @inline(__always)
    public var icrcOffset: Int { byteCount &- RoCEPacket.icrcByteCount }

    /// The payload inside `bytes`, which must be the UDP payload that was parsed.
    @inlinable @inline(__always)
    @_lifetime(copy bytes)
    public func payload(of bytes: RawSpan) -> RawSpan {
        bytes.extracting(payloadOffset..<payloadOffset &+ payloadByteCount)
    }
}

// MARK: - Parsing

extension RoCEPacket {
    /// A packet, or why the bytes are none.
    public enum ParseResult: Sendable {
        /// The bytes are well formed. The ICRC was not looked at.
        case packet(RoCEPacket)
        /// The bytes are to be dropped and counted under this reason.
        case refused(Refusal)
    }

    /// Why bytes are dropped before anyone looks for their queue pair.
    public enum Refusal: UInt8, Sendable, CaseIterable {
        /// Shorter than a BTH and an ICRC.
        case truncated
        /// No opcode of RC, UC, UD, nor a congestion notification.
        case unknownOpcode
        /// TVer is not 0.
        case transportVersion
        /// Shorter than headers, pad and ICRC of the opcode.
        case tooShortForOpcode
        /// Not a multiple of four bytes: some pad is missing.
        case unpadded
        /// A payload, or pad, where the opcode has none, or not the exact length that it has.
        case payloadLength
        /// Queue pair 0, or the multicast queue pair in a packet that is no datagram.
        case destination
    }

    /// Takes a UDP payload apart, BTH to ICRC. Total: any bytes give an answer, and nothing beyond them is read.
    ///
    /// The order is what keeps it so: first whether the opcode is known, then one length gate which everything after
    /// rests on. What the queue pair must judge, because the answer is a NAK and not silence, is left to it: the
    /// payload against the path MTU and the DMA length, keys, sequence.
    @inlinable
    public static func parse(_ bytes: RawSpan) -> ParseResult {
        guard bytes.byteCount >= byteCountMin else { return .refused(.truncated) }
        let bth = BTH(parsing: bytes)
        let descriptor = bth.opcode.descriptor
        guard descriptor.isKnown else { return .refused(.unknownOpcode) }
        guard bth.transportVersion == 0 else { return .refused(.transportVersion) }

        let payload = bytes.byteCount &- descriptor.headerByteCount &- bth.padCount &- icrcByteCount
        guard payload >= 0 else { return .refused(.tooShortForOpcode) }
        guard bytes.byteCount & 3 == 0 else { return .refused(.unpadded) }
        if let exact = descriptor.exactPayloadByteCount {
            guard payload == exact, bth.padCount == 0 else { return .refused(.payloadLength) }
        }
        guard isPlausible(destination: bth.destination, descriptor) else { return .refused(.destination) }
        return .packet(RoCEPacket(parsing: bytes, bth, descriptor, payloadByteCount: payload))
    }

    @inlinable @inline(__always)
    static func isPlausible(destination: QPN, _ descriptor: OpcodeDescriptor) -> Bool {
        destination != .subnetManagement && (destination != .multicast || descriptor.transport == .ud)
    }

    /// Reads the extension headers; the length gate is behind us.
    @inlinable @inline(__always)
    init(parsing bytes: RawSpan, _ bth: BTH, _ descriptor: OpcodeDescriptor, payloadByteCount: Int) {
        self.bth = bth
        self.descriptor = descriptor
        self.payloadByteCount = payloadByteCount
        let headers = descriptor.headers
        guard !headers.isEmpty else { return }
        var offset = BTH.byteCount
        if headers.contains(.deth) {
            deth = DETH(parsing: bytes, at: offset)
            offset &+= DETH.byteCount
        }
        if headers.contains(.feth) {
            feth = FETH(parsing: bytes, at: offset)
            offset &+= FETH.byteCount
        }
        if headers.contains(.reth) {
            reth = RETH(parsing: bytes, at: offset)
            offset &+= RETH.byteCount
        }
        if headers.contains(.atomicETH) {
            atomicETH = AtomicETH(parsing: bytes, at: offset)
            offset &+= AtomicETH.byteCount
        }
        if headers.contains(.aeth) {
            aeth = AETH(parsing: bytes, at: offset)
            offset &+= AETH.byteCount
        }
        if headers.contains(.atomicAckETH) {
            atomicAckETH = AtomicAckETH(parsing: bytes, at: offset)
            offset &+= AtomicAckETH.byteCount
        }
        if headers.contains(.immDt) {
            immDt = ImmDt(parsing: bytes, at: offset)
            offset &+= ImmDt.byteCount
        }
        if headers.contains(.ieth) {
            ieth = IETH(parsing: bytes, at: offset)
        }
    }
}

extension OpcodeDescriptor {
    /// The only payload that the opcode may have, in bytes; `nil` if it is the queue pair's to judge.
    @inlinable @inline(__always)
    public var exactPayloadByteCount: Int? {
        switch payloadRule {
        case .any: nil
        case .none: 0
        case .eight: 8
        case .sixteen: 16
        }
    }
}

// MARK: - Emission

extension RoCEPacket {
    /// Writes BTH and extension headers to the start of `bytes`, and returns their length: where the payload goes.
    /// Traps if `bytes` is shorter.
    @inlinable
    @discardableResult
    public func emitHeaders(into bytes: inout MutableRawSpan) -> Int {
        bth.emit(into: &bytes)
        let headers = descriptor.headers
        var offset = BTH.byteCount
        if headers.contains(.deth) {
            deth.emit(into: &bytes, at: offset)
            offset &+= DETH.byteCount
        }
        if headers.contains(.feth) {
            feth.emit(into: &bytes, at: offset)
            offset &+= FETH.byteCount
        }
        if headers.contains(.reth) {
            reth.emit(into: &bytes, at: offset)
            offset &+= RETH.byteCount
        }
        if headers.contains(.atomicETH) {
            atomicETH.emit(into: &bytes, at: offset)
            offset &+= AtomicETH.byteCount
        }
        if headers.contains(.aeth) {
            aeth.emit(into: &bytes, at: offset)
            offset &+= AETH.byteCount
        }
        if headers.contains(.atomicAckETH) {
            atomicAckETH.emit(into: &bytes, at: offset)
            offset &+= AtomicAckETH.byteCount
        }
        if headers.contains(.immDt) {
            immDt.emit(into: &bytes, at: offset)
            offset &+= ImmDt.byteCount
        }
        if headers.contains(.ieth) {
            ieth.emit(into: &bytes, at: offset)
            offset &+= IETH.byteCount
        }
        return offset
    }

    /// Writes the pad's zero bytes behind the payload.
    @inlinable @inline(__always)
    public func emitPad(into bytes: inout MutableRawSpan) {
        var offset = payloadOffset &+ payloadByteCount
        while offset < icrcOffset {
            bytes.storeBytes(of: 0, toByteOffset: offset, as: UInt8.self)
            offset &+= 1
        }
    }
}
