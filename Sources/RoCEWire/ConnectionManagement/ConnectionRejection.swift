// SPDX-License-Identifier: Apache-2.0

/// REJ: a REQ or REP is refused, or was waited for in vain.
///
/// ```
///   0  local communication id     9  length of the additional information:7
///   4  remote communication id   10  reason
///   8  message:2                 12  additional information, 72 bytes
///  84  private data, 148 bytes
/// ```
/// IBTA 12.6.7.
public struct ConnectionRejection: Hashable, Sendable {
    /// 148.
    public static var privateByteCount: Int { 148 }
    static var informationByteCountMax: Int { 72 }

    /// The sender's; 0 if it has none.
    public var localID: CommunicationID
    /// The receiver's.
    public var remoteID: CommunicationID
    /// Which message is refused.
    public var subject: MessageSubject
    /// Why.
    public var reason: RejectionReason
    /// What would be accepted, for some reasons: at most 72 bytes.
    public var additionalInformation: [UInt8]
    /// 148 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// A refusal.
    public init(
        localID: CommunicationID, remoteID: CommunicationID, subject: MessageSubject, reason: RejectionReason,
        additionalInformation: [UInt8] = [], privateData: [UInt8] = []
    ) {
        self.localID = localID
        self.remoteID = remoteID
        self.subject = subject
        self.reason = reason
        self.additionalInformation = additionalInformation
        self.privateData = privateData
    }

    /// `nil` if the additional information is longer than its place.
    init?(parsing bytes: RawSpan) {
        let informationByteCount = Int(bytes.loadNative(UInt8.self, at: 9) >> 1)
        guard informationByteCount <= Self.informationByteCountMax else { return nil }
        localID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 0))
        remoteID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 4))
        subject = MessageSubject(rawValue: bytes.loadNative(UInt8.self, at: 8) >> 6)
        reason = RejectionReason(rawValue: bytes.loadBigEndian(UInt16.self, at: 10))
        additionalInformation = bytes.array(12..<12 + informationByteCount)
        privateData = bytes.array(84..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        let information = additionalInformation.prefix(Self.informationByteCountMax)
        bytes.store(localID.rawValue, at: 0)
        bytes.store(remoteID.rawValue, at: 4)
        bytes.store(subject.rawValue << 6, at: 8)
        bytes.store(UInt8(information.count) << 1, at: 9)
        bytes.store(reason.rawValue, at: 10)
        bytes.store(Array(information), at: 12, byteCountMax: Self.informationByteCountMax)
        bytes.store(privateData, at: 84, byteCountMax: Self.privateByteCount)
    }
}

/// Why a connection is refused (IBTA 12.6.7.2). Other codes are kept.
public struct RejectionReason: RawRepresentable, Hashable, Sendable {
    /// The code, which the connection manager of the kernel hands to applications as the event's status.
    public let rawValue: UInt16
    /// A reason by its code.
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// No queue pair is left.
    public static let noQueuePair = RejectionReason(rawValue: 1)
    /// Other resources are exhausted.
    public static let noResources = RejectionReason(rawValue: 3)
    /// The sender gave up waiting for an answer.
    public static let timeout = RejectionReason(rawValue: 4)
    /// Something that was asked for is not there.
    public static let unsupported = RejectionReason(rawValue: 5)
    /// The communication id is not known.
    public static let invalidCommunicationID = RejectionReason(rawValue: 6)
    /// Nobody listens.
    public static let invalidServiceID = RejectionReason(rawValue: 8)
    /// The service has another kind of connection.
    public static let invalidTransport = RejectionReason(rawValue: 9)
    /// The requester's queue pair is connected already, as far as the receiver knows.
    public static let staleConnection = RejectionReason(rawValue: 10)
    /// The remote GID is none of the receiver's.
    public static let invalidGID = RejectionReason(rawValue: 12)
    /// An alternate path, which RoCE has not.
    public static let invalidAlternatePath = RejectionReason(rawValue: 18)
    /// The path MTU; the additional information has the largest.
    public static let invalidPathMTU = RejectionReason(rawValue: 26)
    /// Responder resources are too few.
    public static let insufficientResponderResources = RejectionReason(rawValue: 27)
    /// The application refused (`rdma_reject`), or the connection manager's own header is wrong.
    public static let consumer = RejectionReason(rawValue: 28)
    /// The local communication id is in use.
    public static let duplicateCommunicationID = RejectionReason(rawValue: 30)
}
