// SPDX-License-Identifier: Apache-2.0

/// SIDR_REQ: asks for the queue pair that serves a datagram service.
///
/// ```
///   0  request id     8  service id
///   4  P_Key         16  private data, 216 bytes
/// ```
/// IBTA 12.11.1.
public struct ServiceRequest: Hashable, Sendable {
    /// 216, of which the RDMA connection manager takes 36 for ``ConnectionAddresses``.
    public static var privateByteCount: Int { 216 }

    /// Chosen by the sender.
    public var requestID: CommunicationID
    /// The partition.
    public var partitionKey = PartitionKey.default
    /// What is asked for.
    public var serviceID: ServiceID
    /// 216 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// A request for a service.
    public init(requestID: CommunicationID, serviceID: ServiceID, privateData: [UInt8]) {
        self.requestID = requestID
        self.serviceID = serviceID
        self.privateData = privateData
    }

    init(parsing bytes: RawSpan) {
        requestID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 0))
        partitionKey = PartitionKey(rawValue: bytes.loadBigEndian(UInt16.self, at: 4))
        serviceID = ServiceID(rawValue: bytes.loadBigEndian(UInt64.self, at: 8))
        privateData = bytes.array(16..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        bytes.store(requestID.rawValue, at: 0)
        bytes.store(partitionKey.rawValue, at: 4)
        bytes.store(serviceID.rawValue, at: 8)
        bytes.store(privateData, at: 16, byteCountMax: Self.privateByteCount)
    }
}

/// SIDR_REP: the queue pair that serves a datagram service, or why there is none.
///
/// ```
///   0  request id            12  service id
///   4  status                20  Q_Key
///   5  length of the         24  additional information, 72 bytes
///      information:8         96  private data, 136 bytes
///   8  QPN:24
/// ```
/// IBTA 12.11.2.
public struct ServiceReply: Hashable, Sendable {
    /// 136.
    public static var privateByteCount: Int { 136 }
    static var informationByteCountMax: Int { 72 }

    /// That of the request.
    public var requestID: CommunicationID
    /// Whether there is one.
    public var status: Status
    /// The queue pair.
    public var qpn: QPN
    /// That of the request.
    public var serviceID: ServiceID
    /// What datagrams to the queue pair must show.
    public var queueKey: QueueKey
    /// At most 72 bytes, for some statuses.
    public var additionalInformation: [UInt8] = []
    /// 136 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// What became of a request; other codes are kept.
    public struct Status: RawRepresentable, Hashable, Sendable {
        /// The code.
        public let rawValue: UInt8
        /// A status by its code.
        public init(rawValue: UInt8) { self.rawValue = rawValue }
        /// The queue pair is there.
        public static let valid = Status(rawValue: 0)
        /// Nobody listens.
        public static let unsupportedService = Status(rawValue: 1)
        /// The application refused.
        public static let rejected = Status(rawValue: 2)
        /// No queue pair.
        public static let noQueuePair = Status(rawValue: 3)
    }

    /// An answer to a request.
    public init(
        requestID: CommunicationID, status: Status, qpn: QPN, serviceID: ServiceID, queueKey: QueueKey,
        privateData: [UInt8] = []
    ) {
        self.requestID = requestID
        self.status = status
        self.qpn = qpn
        self.serviceID = serviceID
        self.queueKey = queueKey
        self.privateData = privateData
    }

    /// `nil` if the additional information is longer than its place.
    init?(parsing bytes: RawSpan) {
        let informationByteCount = Int(bytes.loadNative(UInt8.self, at: 5))
        guard informationByteCount <= Self.informationByteCountMax else { return nil }
        requestID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 0))
        status = Status(rawValue: bytes.loadNative(UInt8.self, at: 4))
        qpn = QPN(truncating: bytes.loadBigEndian(UInt32.self, at: 8) >> 8)
        serviceID = ServiceID(rawValue: bytes.loadBigEndian(UInt64.self, at: 12))
        queueKey = QueueKey(rawValue: bytes.loadBigEndian(UInt32.self, at: 20))
        additionalInformation = bytes.array(24..<24 + informationByteCount)
        privateData = bytes.array(96..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        let information = additionalInformation.prefix(Self.informationByteCountMax)
        bytes.store(requestID.rawValue, at: 0)
        bytes.store(status.rawValue, at: 4)
        bytes.store(UInt8(information.count), at: 5)
        bytes.store24(qpn.rawValue, low: 0, at: 8)
        bytes.store(serviceID.rawValue, at: 12)
        bytes.store(queueKey.rawValue, at: 20)
        bytes.store(Array(information), at: 24, byteCountMax: Self.informationByteCountMax)
        bytes.store(privateData, at: 96, byteCountMax: Self.privateByteCount)
    }
}
