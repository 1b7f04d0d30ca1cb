// SPDX-License-Identifier: Apache-2.0

/// DREQ: the sender ends a connection.
///
/// ```
///   0  local communication id     8  remote QPN:24
///   4  remote communication id   12  private data, 220 bytes
/// ```
/// IBTA 12.6.10.
public struct DisconnectRequest: Hashable, Sendable {
    /// 220.
    public static var privateByteCount: Int { 220 }

    /// The sender's.
    public var localID: CommunicationID
    /// The receiver's.
    public var remoteID: CommunicationID
    /// The receiver's queue pair: proof that the sender knows the connection.
    public var remoteQPN: QPN
    /// 220 bytes when parsed; as many as there are when sent.
    public var privateData: [UInt8]

    /// The message for a connection.
    public init(localID: CommunicationID, remoteID: CommunicationID, remoteQPN: QPN, privateData: [UInt8] = []) {
        self.localID = localID
        self.remoteID = remoteID
        self.remoteQPN = remoteQPN
        self.privateData = privateData
    }

    init(parsing bytes: RawSpan) {
        localID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 0))
        remoteID = CommunicationID(rawValue: bytes.loadBigEndian(UInt32.self, at: 4))
        remoteQPN = QPN(truncating: bytes.loadBigEndian(UInt32.self, at: 8) >> 8)
        privateData = bytes.array(12..<232)
    }

    func emit(into bytes: inout MessageBytes) {
        bytes.store(localID.rawValue, at: 0)
        bytes.store(remoteID.rawValue, at: 4)
        bytes.store24(remoteQPN.rawValue, low: 0, at: 8)
        bytes.store(privateData, at: 12, byteCountMax: Self.privateByteCount)
    }
}

/// DREP: the end of a connection is heard. Sent for connections that are not known, too.
///
/// ```
///   0  local communication id
///   4  remote communication id
///   8  private data, 224 bytes
/// ```
/// IBTA 12.6.11.
public struct DisconnectReply: Hashable, Sendable {
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
