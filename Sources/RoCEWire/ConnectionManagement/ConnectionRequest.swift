// SPDX-License-Identifier: Apache-2.0

/// REQ: the active end asks for a connection to a service.
///
/// ```
///   0  local communication id         47  local response timeout:5, retry count:3
///   8  service id                     48  P_Key
///  16  local CA GUID                  50  path MTU:4, RDC exists:1, RNR retry:3
///  32  local QPN:24                   51  CM retries:4, SRQ:1, extended transport:3
///  35  responder resources            52  primary path: local LID, remote LID,
///  36  local EECN:24                  56    local GID, remote GID,
///  39  initiator depth                88    flow label:20, 6 reserved, packet rate:6,
///  43  remote response timeout:5,     92    traffic class, hop limit, SL:4 subnet local:1,
///      transport:2, end-to-end flow   95    local ACK timeout:5
///      control:1                      96  alternate path, the same 44 bytes: zero
///  44  starting PSN:24               140  private data, 92 bytes
/// ```
/// The extended transport type counts where the transport is 3; 1 is XRC (annex A14), whose initiator names itself in the
/// place of the QPN. "Starting PSN" is where the *receiver* of the message starts to send; "initiator depth" and "responder resources" are
/// those of the sender of the message, so its peer takes them crosswise. IBTA 12.6.5.
public struct ConnectionRequest: Hashable, Sendable {
    /// 92, of which the RDMA connection manager takes 36 for ``ConnectionAddresses``.
    public static var privateByteCount: Int { 92 }

    /// Chosen by the sender.
    public var localID: CommunicationID
    /// What is asked for.
    public var serviceID: ServiceID
    /// The sender's node.
    public var nodeGUID: UInt64
    /// The sender's queue pair.
    public var qpn: QPN
    /// READs and atomics that the sender takes at a time.
    public var responderResources: UInt8
    /// READs and atomics that the sender wants to have outstanding.
    public var initiatorDepth: UInt8
    /// How long the receiver may take to answer: 4.096 µs · 2^n.
    public var remoteResponseTimeout: UInt8
    /// What kind of connection.
    public var transport: Transport
    /// Whether the sender asks for end-to-end credits.
    public var usesEndToEndFlowControl = false
    /// The first PSN that the receiver of the message sends.
    public var startingPSN: PSN
    /// How long the sender takes to answer a reply, as ``remoteResponseTimeout``.
    public var localResponseTimeout: UInt8
    /// Retries of a packet, 0...7.
    public var retryCount: UInt8
    /// The partition.
    public var partitionKey = PartitionKey.default
    /// The code of the path MTU, kept as it came: peers send what they like, so judge it by `PathMTU(rawValue:)`.
    public var pathMTUCode: UInt8
    /// Retries after RNR NAKs, 0...7.
    public var rnrRetry: UInt8
    /// How often CM messages are sent again.
    public var retryCountMax: UInt8
    /// Whether the sender's receives come from a shared queue.
    public var usesSharedReceives = false
    /// Local identifiers: 0xFFFF on Ethernet.
    public var localLID: UInt16 = 0xFFFF
    /// See ``localLID``.
    public var remoteLID: UInt16 = 0xFFFF
    /// The sender's address. Answer to where the packet came from, not to this.
    public var localGID: GID
    /// The receiver's address.
    public var remoteGID: GID
    /// 20 bits.
    public var flowLabel: UInt32 = 0
    /// 6 bits; 0 is none.
    public var packetRate: UInt8 = 0
    /// As in the IP header.
    public var trafficClass: UInt8 = 0
    /// As in the IP header.
    public var hopLimit: UInt8 = 64
    /// 4 bits.
    public var serviceLevel: UInt8 = 0
    /// Whether the path stays in the subnet.
    public var isSubnetLocal = false
    /// The peer's timeout for acknowledgements: 4.096 µs · 2^n.
    public var ackTimeout: UInt8
    /// Whether the sender names an alternate path, which RoCE has not. Never sent.
    public var hasAlternatePath = false
    /// 92 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// The service that a connection gives, with its code on the wire.
    public struct Transport: RawRepresentable, Hashable, Sendable {
        /// Two bits, and above them the three of the extended transport type where those are 3.
        public let rawValue: UInt8
        /// A transport with this code.
        public init(rawValue: UInt8) { self.rawValue = rawValue & 3 == 3 ? rawValue & 0x1F : rawValue & 3 }
        /// RC.
        public static let reliableConnected = Transport(rawValue: 0)
        /// UC.
        public static let unreliableConnected = Transport(rawValue: 1)
        /// XRC.
        public static let extendedReliableConnected = Transport(rawValue: 1 << 2 | 3)
    }

    /// A request with the fields that every sender chooses.
    public init(
        localID: CommunicationID, serviceID: ServiceID, nodeGUID: UInt64, qpn: QPN, transport: Transport,
        startingPSN: PSN, pathMTU: PathMTU, localGID: GID, remoteGID: GID, privateData: [UInt8]
    ) {
        self.localID = localID
        self.serviceID = serviceID
        self.nodeGUID = nodeGUID
        self.qpn = qpn
        self.transport = transport
        self.startingPSN = startingPSN
        pathMTUCode = pathMTU.rawValue
        self.localGID = localGID
        self.remoteGID = remoteGID
        self.privateData = privateData
        responderResources = 1
        initiatorDepth = 1
        remoteResponseTimeout = 20
        localResponseTimeout = 20
        retryCount = 7
        rnrRetry = 7
        retryCountMax = 15
        ackTimeout = 17
    }

    init(parsing bytes: RawSpan) {
        func byte(_ offset: Int) -> UInt8 { bytes.loadNative(UInt8.self, at: offset) }
        func word(_ offset: Int) -> UInt32 { bytes.loadBigEndian(UInt32.self, at: offset) }
        localID = CommunicationID(rawValue: word(0))
        serviceID = ServiceID(rawValue: bytes.loadBigEndian(UInt64.self, at: 8))
        nodeGUID = bytes.loadBigEndian(UInt64.self, at: 16)
        qpn = QPN(truncating: word(32) >> 8)
        responderResources = byte(35)
        initiatorDepth = byte(39)
        remoteResponseTimeout = byte(43) >> 3
        transport = Transport(rawValue: byte(43) >> 1 & 3 | (byte(51) & 7) << 2)
        usesEndToEndFlowControl = byte(43) & 1 != 0
        startingPSN = PSN(truncating: word(44) >> 8)
        localResponseTimeout = byte(47) >> 3
        retryCount = byte(47) & 7
        partitionKey = PartitionKey(rawValue: bytes.loadBigEndian(UInt16.self, at: 48))
        pathMTUCode = byte(50) >> 4
        rnrRetry = byte(50) & 7
        retryCountMax = byte(51) >> 4
        usesSharedReceives = byte(51) & 8 != 0
        localLID = bytes.loadBigEndian(UInt16.self, at: 52)
        remoteLID = bytes.loadBigEndian(UInt16.self, at: 54)
        localGID = GID(parsing: bytes, at: 56)
        remoteGID = GID(parsing: bytes, at: 72)
        flowLabel = word(88) >> 12
        packetRate = byte(91) & 0x3F
        trafficClass = byte(92)
        hopLimit = byte(93)
        serviceLevel = byte(94) >> 4
        isSubnetLocal = byte(94) & 8 != 0
        ackTimeout = byte(95) >> 3
        hasAlternatePath = bytes.loadBigEndian(UInt16.self, at: 96) != 0
        privateData = bytes.array(140..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        bytes.store(localID.rawValue, at: 0)
        bytes.store(serviceID.rawValue, at: 8)
        bytes.store(nodeGUID, at: 16)
        bytes.store24(qpn.rawValue, low: responderResources, at: 32)
        bytes.store(initiatorDepth, at: 39)
        bytes.store(
            remoteResponseTimeout << 3 | (transport.rawValue & 3) << 1 | (usesEndToEndFlowControl ? 1 : 0), at: 43)
        bytes.store24(startingPSN.rawValue, low: localResponseTimeout << 3 | retryCount & 7, at: 44)
        bytes.store(partitionKey.rawValue, at: 48)
        bytes.store(pathMTUCode << 4 | rnrRetry & 7, at: 50)
        bytes.store(retryCountMax << 4 | (usesSharedReceives ? 8 : 0) | transport.rawValue >> 2, at: 51)
        bytes.store(localLID, at: 52)
        bytes.store(remoteLID, at: 54)
        bytes.store(localGID, at: 56)
        bytes.store(remoteGID, at: 72)
        bytes.store(flowLabel << 12 | UInt32(packetRate & 0x3F), at: 88)
        bytes.store(trafficClass, at: 92)
        bytes.store(hopLimit, at: 93)
        bytes.store(serviceLevel << 4 | (isSubnetLocal ? 8 : 0), at: 94)
        bytes.store(ackTimeout << 3, at: 95)
        bytes.store(privateData, at: 140, byteCountMax: Self.privateByteCount)
    }
}
