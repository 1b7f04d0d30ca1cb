// SPDX-License-Identifier: Apache-2.0

/// The headers of one packet and where its payload lies: a UDP payload from the BTH to the ICRC, taken apart.
///
/// The value is a copy: the headers are judged as they were when ``parse(_:)`` read them, even if the bytes lie in
/// memory that someone can still change. It is trivial (no reference, no allocation), and serves both directions.
///
/// ```
/// BTH | XRCETH  DETH  FETH  RETH  AtomicETH  AETH  AtomicAckETH  ImmDt  IETH | payload | pad 0...3 | ICRC 4
///       those of opcode.descriptor.headers, in this order
/// ```
/// Ask only for extension headers that the opcode has: the 28 bytes behind the BTH are copied as words, and the last
/// four of the headers, whatever they are, and the accessors pick from those. That makes parsing nearly free of branches.
public struct RoCEPacket: Sendable {
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

    // Bytes 12...39 as big-endian words.
    @usableFromInline var extension0: UInt64 = 0
    @usableFromInline var extension1: UInt64 = 0
    @usableFromInline var extension2: UInt64 = 0
    @usableFromInline var extension3: UInt32 = 0
    /// The last four bytes of the headers as they lie in memory: ImmDt or IETH, which are always last, and the end of the
    /// AtomicETH behind an XRCETH.
    @usableFromInline var last: UInt32 = 0

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
        /// No opcode of RC, UC, UD, XRC, nor a congestion notification.
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

    /// Copies the extension headers; the length gate is behind us.
    @inlinable @inline(__always)
    init(parsing bytes: RawSpan, _ bth: BTH, _ descriptor: OpcodeDescriptor, payloadByteCount: Int) {
        self.bth = bth
        self.descriptor = descriptor
        self.payloadByteCount = payloadByteCount
        last = bytes.loadNative(UInt32.self, at: descriptor.headerByteCount &- 4)
        // What lies behind the headers of this opcode is copied along and never asked for. A packet which is too short
        // for a word has no header in it, because an ICRC follows the headers.
        if bytes.byteCount >= 40 {
            extension0 = bytes.loadBigEndian(UInt64.self, at: 12)
            extension1 = bytes.loadBigEndian(UInt64.self, at: 20)
            extension2 = bytes.loadBigEndian(UInt64.self, at: 28)
            extension3 = bytes.loadBigEndian(UInt32.self, at: 36)
        } else if bytes.byteCount >= 20 {
            extension0 = bytes.loadBigEndian(UInt64.self, at: 12)
            if bytes.byteCount >= 28 { extension1 = bytes.loadBigEndian(UInt64.self, at: 20) }
            if bytes.byteCount >= 36 { extension2 = bytes.loadBigEndian(UInt64.self, at: 28) }
        }
    }
}

// MARK: - Extension headers

extension RoCEPacket {
    /// Valid if the opcode has `.deth`.
    @inlinable @inline(__always)
    public var deth: DETH {
        get {
            DETH(
                queueKey: QueueKey(rawValue: UInt32(truncatingIfNeeded: extension0 >> 32)),
                source: QPN(truncating: UInt32(truncatingIfNeeded: extension0)))
        }
        set { extension0 = UInt64(newValue.queueKey.rawValue) << 32 | UInt64(newValue.source.rawValue) }
    }

    /// Valid if the opcode has `.xrceth`.
    @inlinable @inline(__always)
    public var xrceth: XRCETH {
        get { XRCETH(sharedReceiveQueue: UInt32(truncatingIfNeeded: extension0 >> 32)) }
        set { extension0 = UInt64(newValue.sharedReceiveQueue) << 32 | extension0 & 0xFFFF_FFFF }
    }

    /// Valid if the opcode has `.feth`. Behind an XRCETH it stands four bytes later than elsewhere.
    @inlinable @inline(__always)
    public var feth: FETH {
        get {
            let isFirst = !descriptor.headers.contains(.xrceth)
            return FETH(rawValue: UInt32(truncatingIfNeeded: isFirst ? extension0 >> 32 : extension0))
        }
        set {
            let isFirst = !descriptor.headers.contains(.xrceth)
            let value = UInt64(newValue.rawValue)
            extension0 =
                isFirst ? value << 32 | extension0 & 0xFFFF_FFFF : extension0 & 0xFFFF_FFFF_0000_0000 | value
        }
    }

    /// Valid if the opcode has `.reth`. Behind an XRCETH or a FETH it stands four bytes later than elsewhere, behind both
    /// eight.
    @inlinable @inline(__always)
    public var reth: RETH {
        get {
            let before = descriptor.headers.intersection([.xrceth, .feth])
            if before.isEmpty {
                return RETH(
                    virtualAddress: extension0, rkey: MemoryKey(rawValue: UInt32(truncatingIfNeeded: extension1 >> 32)),
                    length: UInt32(truncatingIfNeeded: extension1))
            }
            if before == [.xrceth, .feth] {
                return RETH(
                    virtualAddress: extension1, rkey: MemoryKey(rawValue: UInt32(truncatingIfNeeded: extension2 >> 32)),
                    length: UInt32(truncatingIfNeeded: extension2))
            }
            return RETH(
                virtualAddress: extension0 << 32 | extension1 >> 32,
                rkey: MemoryKey(rawValue: UInt32(truncatingIfNeeded: extension1)),
                length: UInt32(truncatingIfNeeded: extension2 >> 32))
        }
        set {
            let before = descriptor.headers.intersection([.xrceth, .feth])
            let keyAndLength = UInt64(newValue.rkey.rawValue) << 32 | UInt64(newValue.length)
            if before.isEmpty {
                extension0 = newValue.virtualAddress
                extension1 = keyAndLength
                return
            }
            if before == [.xrceth, .feth] {
                extension1 = newValue.virtualAddress
                extension2 = keyAndLength
                return
            }
            extension0 = extension0 & 0xFFFF_FFFF_0000_0000 | newValue.virtualAddress >> 32
            extension1 = newValue.virtualAddress << 32 | UInt64(newValue.rkey.rawValue)
            extension2 = UInt64(newValue.length) << 32 | extension2 & 0xFFFF_FFFF
        }
    }

    /// Valid if the opcode has `.atomicETH`. Behind an XRCETH it stands four bytes later than elsewhere.
    @inlinable @inline(__always)
    public var atomicETH: AtomicETH {
        get {
            if descriptor.headers.contains(.xrceth) { return extendedAtomicETH }
            return AtomicETH(
                virtualAddress: extension0, rkey: MemoryKey(rawValue: UInt32(truncatingIfNeeded: extension1 >> 32)),
                swapOrAdd: extension1 << 32 | extension2 >> 32, compare: extension2 << 32 | UInt64(extension3))
        }
        set {
            if descriptor.headers.contains(.xrceth) {
                extendedAtomicETH = newValue
                return
            }
            extension0 = newValue.virtualAddress
            extension1 = UInt64(newValue.rkey.rawValue) << 32 | newValue.swapOrAdd >> 32
            extension2 = newValue.swapOrAdd << 32 | newValue.compare >> 32
            extension3 = UInt32(truncatingIfNeeded: newValue.compare)
        }
    }

    @inlinable
    var extendedAtomicETH: AtomicETH {
        get {
            AtomicETH(
                virtualAddress: extension0 << 32 | extension1 >> 32,
                rkey: MemoryKey(rawValue: UInt32(truncatingIfNeeded: extension1)), swapOrAdd: extension2,
                compare: UInt64(extension3) << 32 | UInt64(UInt32(bigEndian: last)))
        }
        set {
            extension0 = extension0 & 0xFFFF_FFFF_0000_0000 | newValue.virtualAddress >> 32
            extension1 = newValue.virtualAddress << 32 | UInt64(newValue.rkey.rawValue)
            extension2 = newValue.swapOrAdd
            extension3 = UInt32(truncatingIfNeeded: newValue.compare >> 32)
            last = UInt32(truncatingIfNeeded: newValue.compare).bigEndian
        }
    }

    /// Valid if the opcode has `.aeth`.
    @inlinable @inline(__always)
    public var aeth: AETH {
        get { AETH(word: UInt32(truncatingIfNeeded: extension0 >> 32)) }
        set { extension0 = UInt64(newValue.word) << 32 | extension0 & 0xFFFF_FFFF }
    }

    /// Valid if the opcode has `.atomicAckETH`.
    @inlinable @inline(__always)
    public var atomicAckETH: AtomicAckETH {
        get { AtomicAckETH(originalValue: extension0 << 32 | extension1 >> 32) }
        set {
            extension0 = extension0 & 0xFFFF_FFFF_0000_0000 | newValue.originalValue >> 32
            extension1 = newValue.originalValue << 32 | extension1 & 0xFFFF_FFFF
        }
    }

    /// Valid if the opcode has `.immDt`.
    @inlinable @inline(__always)
    public var immDt: ImmDt {
        get { ImmDt(networkOrderValue: last) }
        set { last = newValue.networkOrderValue }
    }

    /// Valid if the opcode has `.ieth`.
    @inlinable @inline(__always)
    public var ieth: IETH {
        get { IETH(rkey: MemoryKey(rawValue: UInt32(bigEndian: last))) }
        set { last = newValue.rkey.rawValue.bigEndian }
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
        if headers.contains(.xrceth) {
            xrceth.emit(into: &bytes, at: offset)
            offset &+= XRCETH.byteCount
        }
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
