// SPDX-License-Identifier: Apache-2.0

/// REP: the passive end takes the connection.
///
/// ```
///   0  local communication id     24  responder resources
///   4  remote communication id    25  initiator depth
///   8  Q_Key                      26  target ACK delay:5, failover accepted:2, end-to-end flow control:1
///  12  local QPN:24               27  RNR retry:3, SRQ:1
///  16  local EECN:24              28  local CA GUID
///  20  starting PSN:24            36  private data, 196 bytes
/// ```
/// As in a REQ, "starting PSN" is where the receiver of the message starts to send. A target of XRC (annex A14) stands in the
/// place of the EECN; its QPN is zero. IBTA 12.6.8.
public struct ConnectionReply: Hashable, Sendable {
    /// 196.
    public static var privateByteCount: Int { 196 }

    /// Chosen by the sender.
    public var localID: CommunicationID
    /// That of the REQ.
    public var remoteID: CommunicationID
    /// Of datagram services.
    public var queueKey = QueueKey(rawValue: 0)
    /// The sender's queue pair, unless it is of XRC.
    public var qpn: QPN
    /// The sender's queue pair of XRC, in the place of the end-to-end context number.
    public var eecn = QPN(truncating: 0)
    /// The first PSN that the receiver of the message sends.
    public var startingPSN: PSN
    /// READs and atomics that the sender takes at a time.
    public var responderResources: UInt8
    /// READs and atomics that the sender wants to have outstanding.
    public var initiatorDepth: UInt8
    /// How long the sender may take to acknowledge: 4.096 µs · 2^n.
    public var ackDelay: UInt8 = 15
    /// 0: an alternate path was accepted, or none was offered.
    public var failover: UInt8 = 0
    /// Whether the sender grants end-to-end credits.
    public var usesEndToEndFlowControl = false
    /// Retries after RNR NAKs, 0...7.
    public var rnrRetry: UInt8
    /// Whether the sender's receives come from a shared queue.
    public var usesSharedReceives = false
    /// The sender's node.
    public var nodeGUID: UInt64
    /// 196 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// A reply with the fields that every sender chooses.
    public init(
        localID: CommunicationID, remoteID: CommunicationID, qpn: QPN, startingPSN: PSN, responderResources: UInt8,
        initiatorDepth: UInt8, rnrRetry: UInt8, nodeGUID: UInt64, privateData: [UInt8]
    ) {
        self.localID = localID
        self.remoteID = remoteID
        self.qpn = qpn
        self.startingPSN = startingPSN
        self.responderResources = responderResources
        self.initiatorDepth = initiatorDepth
        self.rnrRetry = rnrRetry
        self.nodeGUID = nodeGUID
        self.privateData = privateData
    }

    /// The sender's queue pair, in the answer to a request for a transport.
    public func queuePair(of transport: ConnectionRequest.Transport) -> QPN {
        transport == .extendedReliableConnected ? eecn : qpn
    }

    init(parsing bytes: RawSpan) {
        func byte(_ offset: Int) -> UInt8 { bytes.loadNative(UInt8.self, at: offset) }
        func word(_ offset: Int) -> UInt32 { bytes.loadBigEndian(UInt32.self, at: offset) }
        localID = CommunicationID(rawValue: word(0))
        remoteID = CommunicationID(rawValue: word(4))
        queueKey = QueueKey(rawValue: word(8))
        qpn = QPN(truncating: word(12) >> 8)
        eecn = QPN(truncating: word(16) >> 8)
        startingPSN = PSN(truncating: word(20) >> 8)
        responderResources = byte(24)
        initiatorDepth = byte(25)
        ackDelay = byte(26) >> 3
        failover = byte(26) >> 1 & 3
        usesEndToEndFlowControl = byte(26) & 1 != 0
        rnrRetry = byte(27) >> 5
        usesSharedReceives = byte(27) & 0x10 != 0
        nodeGUID = bytes.loadBigEndian(UInt64.self, at: 28)
        privateData = bytes.array(36..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        bytes.store(localID.rawValue, at: 0)
        bytes.store(remoteID.rawValue, at: 4)
        bytes.store(queueKey.rawValue, at: 8)
        bytes.store24(qpn.rawValue, low: 0, at: 12)
        bytes.store24(eecn.rawValue, low: 0, at: 16)
        bytes.store24(startingPSN.rawValue, low: 0, at: 20)
        bytes.store(responderResources, at: 24)
        bytes.store(initiatorDepth, at: 25)
        bytes.store(ackDelay << 3 | (failover & 3) << 1 | (usesEndToEndFlowControl ? 1 : 0), at: 26)
        bytes.store(rnrRetry << 5 | (usesSharedReceives ? 0x10 : 0), at: 27)
        bytes.store(nodeGUID, at: 28)
        bytes.store(privateData, at: 36, byteCountMax: Self.privateByteCount)
    }
}

/// RTU: the active end has heard the REP and is ready.
///
/// ```
///   0  local communication id
///   4  remote communication id
///   8  private data, 224 bytes
/// ```
/// IBTA 12.6.9.
public struct ReadyToUse: Hashable, Sendable {
    /// 224.
    public static var privateByteCount: Int { 224 }

    /// The sender's.
    public var localID: CommunicationID
    /// The receiver's.
    public var remoteID: CommunicationID
    /// 224 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// The message for a connection.
    public init(localID: CommunicationID, remoteID: CommunicationID, privateData: [UInt8] = []) {
        self.localID = localID
        self.remoteID = remoteID
        self.privateData = privateData
    }

    init(parsing bytes: RawSpan) {
        localID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 0))
        remoteID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 4))
        privateData = bytes.array(8..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        bytes.store(localID.rawValue, at: 0)
        bytes.store(remoteID.rawValue, at: 4)
        bytes.store(privateData, at: 8, byteCountMax: Self.privateByteCount)
    }
}

/// MRA: a message has arrived, and its answer takes longer than the sender allowed.
///
/// ```
///   0  local communication id     8  message:2
///   4  remote communication id    9  service timeout:5
///  10  private data, 222 bytes
/// ```
/// IBTA 12.6.6.
public struct ReceiptAcknowledgement: Hashable, Sendable {
    /// 222.
    public static var privateByteCount: Int { 222 }

    /// The sender's.
    public var localID: CommunicationID
    /// The receiver's.
    public var remoteID: CommunicationID
    /// Which message arrived.
    public var subject: MessageSubject
    /// How long the answer may take from now on: 4.096 µs · 2^n.
    public var serviceTimeout: UInt8
    /// 222 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// The message for a connection.
    public init(
        localID: CommunicationID, remoteID: CommunicationID, subject: MessageSubject, serviceTimeout: UInt8,
        privateData: [UInt8] = []
    ) {
        self.localID = localID
        self.remoteID = remoteID
        self.subject = subject
        self.serviceTimeout = serviceTimeout
        self.privateData = privateData
    }

    init(parsing bytes: RawSpan) {
        localID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 0))
        remoteID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 4))
        subject = MessageSubject(rawValue: bytes.loadNative(UInt8.self, at: 8) >> 6)
        serviceTimeout = bytes.loadNative(UInt8.self, at: 9) >> 3
        privateData = bytes.array(10..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        bytes.store(localID.rawValue, at: 0)
        bytes.store(remoteID.rawValue, at: 4)
        bytes.store(subject.rawValue << 6, at: 8)
        bytes.store(serviceTimeout << 3, at: 9)
        bytes.store(privateData, at: 10, byteCountMax: Self.privateByteCount)
    }
}

/// Which message an MRA or REJ is about: two bits.
public struct MessageSubject: RawRepresentable, Hashable, Sendable {
    /// The code, 0...3.
    public let rawValue: UInt8
    /// Takes the low two bits.
    public init(rawValue: UInt8) { self.rawValue = rawValue & 3 }
    /// A REQ.
    public static let connectionRequest = MessageSubject(rawValue: 0)
    /// A REP.
    public static let connectionReply = MessageSubject(rawValue: 1)
    /// Another message; a REJ for a timeout, for one.
    public static let other = MessageSubject(rawValue: 2)
}
