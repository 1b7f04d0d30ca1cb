// SPDX-License-Identifier: Apache-2.0
import VerbsABI

/// What the two sides of a connection tell each other when it is made.
///
/// What a peer sent comes in the reader's view: its `initiatorDepth` is what this side may use as `responderResources`
/// and the other way round, already exchanged. The corresponding C type is `struct rdma_conn_param`.
public struct ConnectionParameters: Hashable, Sendable {
    /// Bytes for the peer's program, at most ``PrivateDataLimit`` of the message. What arrives is filled up with zeros to
    /// that limit, because the message does not say its length.
    public var privateData: [UInt8]
    /// Reads and atomics that this side may have outstanding; `nil` is as many as the device can and the peer answers.
    public var initiatorDepth: UInt8?
    /// Reads and atomics of the peer that this side answers at a time; `nil` is as many as the device can and the peer asks for.
    public var responderResources: UInt8?
    /// How often a lost packet is repeated, 0 to 7. The active side's counts for both.
    public var retryCount: UInt8
    /// How often a peer without a receive is asked again, 0 to 6; 7 asks for ever.
    public var rnrRetry: UInt8
    /// The peer's hardware keeps count of its receives.
    public var hasFlowControl: Bool
    /// The queue pair, 24 bits. Set by the library for this side; informative in what a peer sent.
    public internal(set) var queuePair: UInt32 = 0
    /// The queue pair receives from a shared queue. Set by the library for this side.
    public internal(set) var hasSharedReceives: Bool = false

    /// Parameters of all members that a program chooses.
    public init(
        privateData: [UInt8] = [], initiatorDepth: UInt8? = nil, responderResources: UInt8? = nil,
        retryCount: UInt8 = 7, rnrRetry: UInt8 = 7, hasFlowControl: Bool = false
    ) {
        self.privateData = privateData
        self.initiatorDepth = initiatorDepth
        self.responderResources = responderResources
        self.retryCount = retryCount
        self.rnrRetry = rnrRetry
        self.hasFlowControl = hasFlowControl
    }
}

/// How many bytes of private data a message of the connection manager carries, in bytes.
public enum PrivateDataLimit {
    /// A request for a connection (REQ): 92, less 36 for the addresses of the two sides.
    public static let connect = 56
    /// The answer that accepts (REP).
    public static let accept = 196
    /// The answer that refuses (REJ).
    public static let reject = 148
    /// A question for a datagram service (SIDR_REQ): 216, less 36 for the addresses.
    public static let datagramRequest = 180
    /// The answer to it (SIDR_REP), be it yes or no.
    public static let datagramReply = 136

    /// Refuses private data that does not fit.
    static func check(_ data: [UInt8], _ limit: Int, _ function: String) throws(VerbsError) {
        guard data.count > limit else { return }
        throw VerbsError(
            .invalidAttribute, verb: function, subject: "private data", value: "\(data.count) bytes",
            limit: "\(limit) bytes", remedy: "Send the rest as a message once the connection is established")
    }
}

extension ConnectionParameters {
    /// Copies what an event carries.
    init(_ native: rdma_conn_param) {
        self.init(
            privateData: unsafe Self.bytes(native.private_data, native.private_data_len),
            initiatorDepth: unsafe native.initiator_depth, responderResources: unsafe native.responder_resources,
            retryCount: unsafe native.retry_count, rnrRetry: unsafe native.rnr_retry_count,
            hasFlowControl: unsafe native.flow_control != 0)
        queuePair = unsafe native.qp_num
        hasSharedReceives = unsafe native.srq != 0
    }

    /// Calls with the C structure, which is good during the call.
    func withNative(
        _ body: (UnsafeMutablePointer<rdma_conn_param>) throws(ProviderError) -> Void
    ) throws(ProviderError) {
        // 255 is RDMA_MAX_INIT_DEPTH and RDMA_MAX_RESP_RES: as many as possible.
        var native = unsafe rdma_conn_param(
            private_data: nil, private_data_len: UInt8(clamping: privateData.count),
            responder_resources: responderResources ?? 255, initiator_depth: initiatorDepth ?? 255,
            flow_control: hasFlowControl ? 1 : 0, retry_count: retryCount, rnr_retry_count: rnrRetry,
            srq: hasSharedReceives ? 1 : 0, qp_num: queuePair)
        try unsafe privateData.withUnsafeBufferPointer { (bytes) throws(ProviderError) in
            unsafe native.private_data = UnsafeRawPointer(bytes.baseAddress)
            try unsafe body(&native)
        }
    }

    static func bytes(_ start: UnsafeRawPointer?, _ count: UInt8) -> [UInt8] {
        // The event owns its private data until it is acknowledged; copied here.
        unsafe start.map { unsafe [UInt8](UnsafeRawBufferPointer(start: $0, count: Int(count))) } ?? []
    }
}
