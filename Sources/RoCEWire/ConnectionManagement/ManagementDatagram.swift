// SPDX-License-Identifier: Apache-2.0

/// A management datagram of the communication management class: what queue pairs 1 say to each other, 256 bytes.
///
/// ```
///  0       base version, 1          16...17  attribute: which message
///  1       management class, 7      18...19  reserved
///  2       class version, 2         20...23  attribute modifier
///  3       method, 3 (Send)         24...    the message
///  4...7   status, class-specific
///  8...15  transaction
/// ```
/// Offsets in the messages' own files count from byte 24. IBTA volume 1, chapters 12 and 13.4.
public struct ManagementDatagram: Hashable, Sendable {
    /// 256: longer and shorter ones are malformed.
    public static var byteCount: Int { 256 }
    /// Where the message starts.
    static var messageOffset: Int { 24 }

    /// Chosen by who asks; answers repeat it.
    public var transactionID: UInt64
    /// What it says.
    public var message: CommunicationMessage

    /// A datagram with this message.
    public init(transactionID: UInt64, message: CommunicationMessage) {
        self.transactionID = transactionID
        self.message = message
    }

    /// What bytes hold.
    public enum Parsed: Hashable, Sendable {
        case datagram(ManagementDatagram)
        /// Another class, version, method or attribute: there are other users of queue pair 1.
        case foreign
        /// Not 256 bytes, or fields that contradict each other.
        case malformed
    }

    /// Reads a datagram: the payload of a packet to queue pair 1.
    public static func parse(_ bytes: RawSpan) -> Parsed {
        guard bytes.byteCount == byteCount else { return .malformed }
        guard bytes.loadBigEndian(UInt32.self, at: 0) == 0x0107_0203 else { return .foreign }
        let body = bytes.extracting(messageOffset..<byteCount)
        guard let attribute = Attribute(rawValue: bytes.loadBigEndian(UInt16.self, at: 16)) else { return .foreign }
        guard let message = CommunicationMessage(attribute, parsing: body) else { return .malformed }
        return .datagram(
            ManagementDatagram(transactionID: bytes.loadBigEndian(UInt64.self, at: 8), message: message))
    }

    /// Writes the 256 bytes at the start of `bytes`.
    public func emit(into bytes: inout MutableRawSpan) {
        precondition(bytes.byteCount >= Self.byteCount, "a management datagram is 256 bytes")
        for offset in stride(from: 0, to: Self.byteCount, by: 8) { bytes.storeNative(UInt64(0), at: offset) }
        bytes.storeBigEndian(UInt32(0x0107_0203), at: 0)
        bytes.storeBigEndian(transactionID, at: 8)
        bytes.storeBigEndian(message.attribute.rawValue, at: 16)
        var body = MessageBytes()
        message.emit(into: &body)
        for (index, byte) in body.bytes.enumerated() { bytes.storeNative(byte, at: Self.messageOffset + index) }
    }

    /// Which message a datagram has.
    enum Attribute: UInt16 {
        case connectionRequest = 0x10
        case receiptAcknowledgement = 0x11
        case rejection = 0x12
        case connectionReply = 0x13
        case readyToUse = 0x14
        case disconnectRequest = 0x15
        case disconnectReply = 0x16
        case serviceRequest = 0x17
        case serviceReply = 0x18
    }
}

/// A message of the communication management protocol. Load alternate path and its reply (LAP, APR) are not among them:
/// RoCE has no alternate paths.
public enum CommunicationMessage: Hashable, Sendable {
    /// REQ
    case connectionRequest(ConnectionRequest)
    /// MRA
    case receiptAcknowledgement(ReceiptAcknowledgement)
    /// REJ
    case rejection(ConnectionRejection)
    /// REP
    case connectionReply(ConnectionReply)
    /// RTU
    case readyToUse(ReadyToUse)
    /// DREQ
    case disconnectRequest(DisconnectRequest)
    /// DREP
    case disconnectReply(DisconnectReply)
    /// SIDR_REQ
    case serviceRequest(ServiceRequest)
    /// SIDR_REP
    case serviceReply(ServiceReply)

    init?(_ attribute: ManagementDatagram.Attribute, parsing bytes: RawSpan) {
        switch attribute {
        case .connectionRequest: self = .connectionRequest(ConnectionRequest(parsing: bytes))
        case .receiptAcknowledgement: self = .receiptAcknowledgement(ReceiptAcknowledgement(parsing: bytes))
        case .rejection:
            guard let rejection = ConnectionRejection(parsing: bytes) else { return nil }
            self = .rejection(rejection)
        case .connectionReply: self = .connectionReply(ConnectionReply(parsing: bytes))
        case .readyToUse: self = .readyToUse(ReadyToUse(parsing: bytes))
        case .disconnectRequest: self = .disconnectRequest(DisconnectRequest(parsing: bytes))
        case .disconnectReply: self = .disconnectReply(DisconnectReply(parsing: bytes))
        case .serviceRequest: self = .serviceRequest(ServiceRequest(parsing: bytes))
        case .serviceReply:
            guard let reply = ServiceReply(parsing: bytes) else { return nil }
            self = .serviceReply(reply)
        }
    }

    func emit(into bytes: inout MessageBytes) {
        switch self {
        case .connectionRequest(let message): message.emit(into: &bytes)
        case .receiptAcknowledgement(let message): message.emit(into: &bytes)
        case .rejection(let message): message.emit(into: &bytes)
        case .connectionReply(let message): message.emit(into: &bytes)
        case .readyToUse(let message): message.emit(into: &bytes)
        case .disconnectRequest(let message): message.emit(into: &bytes)
        case .disconnectReply(let message): message.emit(into: &bytes)
        case .serviceRequest(let message): message.emit(into: &bytes)
        case .serviceReply(let message): message.emit(into: &bytes)
        }
    }

    var attribute: ManagementDatagram.Attribute {
        switch self {
        case .connectionRequest: .connectionRequest
        case .receiptAcknowledgement: .receiptAcknowledgement
        case .rejection: .rejection
        case .connectionReply: .connectionReply
        case .readyToUse: .readyToUse
        case .disconnectRequest: .disconnectRequest
        case .disconnectReply: .disconnectReply
        case .serviceRequest: .serviceRequest
        case .serviceReply: .serviceReply
        }
    }
}

extension CommunicationMessage: CustomStringConvertible {
    /// The specification's name: REQ, REP, RTU ...
    public var description: String {
        switch self {
        case .connectionRequest: "REQ"
        case .receiptAcknowledgement: "MRA"
        case .rejection: "REJ"
        case .connectionReply: "REP"
        case .readyToUse: "RTU"
        case .disconnectRequest: "DREQ"
        case .disconnectReply: "DREP"
        case .serviceRequest: "SIDR_REQ"
        case .serviceReply: "SIDR_REP"
        }
    }
}

/// Names a connection, or a request of one, among those of the end that chose it.
public struct CommunicationID: Hashable, Sendable, RawRepresentable {
    /// All 32 bits.
    public let rawValue: UInt32

    /// An id with these bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// The process slot of the software device: the high 8 bits, as those of a queue pair number.
    public var slot: UInt8 { UInt8(truncatingIfNeeded: rawValue >> 24) }
}

/// Names a service: what a connection is asked for.
public struct ServiceID: Hashable, Sendable, RawRepresentable {
    /// All 64 bits.
    public let rawValue: UInt64

    /// A service with these bits.
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// The service of a port number, as the RDMA connection manager composes it (IBTA annex A11).
    public init(portSpace: PortSpace, port: UInt16) {
        rawValue = UInt64(portSpace.rawValue) << 16 | UInt64(port)
    }

    /// The port number, if it is a service of a port space.
    public var port: UInt16 { UInt16(truncatingIfNeeded: rawValue) }

    /// The port space; `nil` if it is none of those known here.
    public var portSpace: PortSpace? { PortSpace(rawValue: rawValue >> 16) }

    /// Which kind of service a port number belongs to (`enum rdma_port_space`).
    public enum PortSpace: UInt64, Sendable {
        /// Reliable connections.
        case tcp = 0x0106
        /// Datagrams.
        case udp = 0x0111
        /// Services of InfiniBand's own, here with the addresses of the RDMA CM.
        case infiniBand = 0x013F
    }
}

extension RawSpan {
    /// The bytes in a range as an array: private data, which is small and on no data path.
    func array(_ range: Range<Int>) -> [UInt8] {
        range.map { loadNative(UInt8.self, at: $0) }
    }
}

/// A message being written: 232 bytes, zero at first.
struct MessageBytes {
    private(set) var bytes = [UInt8](
        repeating: 0, count: ManagementDatagram.byteCount - ManagementDatagram.messageOffset)

    /// Stores an integer in network byte order.
    mutating func store<T: FixedWidthInteger>(_ value: T, at offset: Int) {
        for index in 0..<T.bitWidth / 8 {
            bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (T.bitWidth - 8 - index * 8))
        }
    }

    /// Stores the low 24 bits of a number in three bytes, and `low` in the byte behind them.
    mutating func store24(_ value: UInt32, low: UInt8, at offset: Int) {
        store(value << 8 | UInt32(low), at: offset)
    }

    /// Stores an address in 16 bytes.
    mutating func store(_ address: GID, at offset: Int) {
        store(address.high, at: offset)
        store(address.low, at: offset + 8)
    }

    /// Stores data, cut to `byteCountMax`.
    mutating func store(_ data: [UInt8], at offset: Int, byteCountMax: Int) {
        for (index, byte) in data.prefix(byteCountMax).enumerated() { bytes[offset + index] = byte }
    }
}

extension CommunicationMessage {
    /// Whom a message is for, among the processes that share a queue pair 1.
    public enum Addressee: Hashable, Sendable {
        /// Who serves it.
        case service(ServiceID)
        /// Whose communication it is.
        case communication(CommunicationID)
    }

    /// Whom the message is for.
    public var addressee: Addressee {
        switch self {
        case .connectionRequest(let message): .service(message.serviceID)
        case .serviceRequest(let message): .service(message.serviceID)
        case .receiptAcknowledgement(let message): .communication(message.remoteID)
        case .rejection(let message): .communication(message.remoteID)
        case .connectionReply(let message): .communication(message.remoteID)
        case .readyToUse(let message): .communication(message.remoteID)
        case .disconnectRequest(let message): .communication(message.remoteID)
        case .disconnectReply(let message): .communication(message.remoteID)
        case .serviceReply(let message): .communication(message.requestID)
        }
    }
}
