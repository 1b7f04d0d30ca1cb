// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// What the connection manager reports about an identifier. The corresponding C type is `struct rdma_cm_event`.
public struct ConnectionEvent: Sendable {
    /// Whom it happened to: of a request the one that listens.
    public let identifier: ConnectionIdentifier
    /// What happened.
    public let kind: Kind

    /// What happened. A `code` is an error number; zero where nothing more is known.
    public enum Kind: Sendable {
        /// The peer's address belongs to a route through an RDMA device; the identifier is bound to that device.
        case addressResolved
        case addressError(code: Int32)
        /// The route is known; ``ConnectionIdentifier/connect(_:_:)`` may follow.
        case routeResolved
        case routeError(code: Int32)
        /// A peer asks for a connection, or for a datagram service, on an identifier made for it.
        case connectRequest(ConnectionIdentifier, ConnectionParameters)
        /// The peer accepted. Bring the queue pair to RTS, then call ``ConnectionIdentifier/establish()``.
        case connectResponse(ConnectionParameters)
        case connectError(code: Int32)
        /// Nobody answered, or the peer has no such datagram service.
        case unreachable(Unreachable, privateData: [UInt8])
        /// The peer, or the connection manager for it, refused.
        case rejected(RejectReason, privateData: [UInt8])
        /// The connection is ready on both sides.
        case established(ConnectionParameters)
        /// The datagram service answered: where to send.
        case datagramEstablished(DatagramEndpoint)
        /// The connection is over. Move the queue pair to ERR; ``ConnectionIdentifier/disconnect()`` answers the peer.
        case disconnected
        /// The device is gone; the identifier must go too.
        case deviceRemoval
        /// Joined: where to send, and what to attach a queue pair to.
        case multicastJoined(SocketAddress?, DatagramEndpoint)
        case multicastError(SocketAddress?, code: Int32)
        /// The network moved the address to another interface.
        case addressChange
        /// Packets of the old connection cannot be on the way any more.
        case timeWaitExit
        /// An event newer than this library.
        case unknown(UInt32, code: Int32)
    }

    /// Why there was no answer.
    public enum Unreachable: Hashable, Sendable {
        /// An error number: ETIMEDOUT for no answer at all.
        case error(Int32)
        /// What the answer to a question for a datagram service said: 1 unsupported, 2 rejected, 3 no queue pair.
        case datagramStatus(Int32)
    }
}

/// Why a connection was refused: the reason code of the message REJ. Unknown ones are kept.
public struct RejectReason: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    /// The number in the message.
    public let rawValue: UInt16

    /// A reason by its number.
    public init(rawValue: UInt16) { self.rawValue = rawValue }

    /// The peer ran out of something.
    public static let noResources = RejectReason(rawValue: 3)
    /// The answer came too late, or not at all.
    public static let timeout = RejectReason(rawValue: 4)
    /// Nobody listens there.
    public static let invalidServiceID = RejectReason(rawValue: 8)
    /// The peer still has an older connection of this queue pair.
    public static let staleConnection = RejectReason(rawValue: 10)
    /// The peer's program said no: ``ConnectionIdentifier/reject(privateData:)``.
    public static let consumer = RejectReason(rawValue: 28)

    /// The number and its name in the specification.
    public var description: String {
        let names: [UInt16: String] = [
            1: "no queue pair", 2: "no end-to-end context", 3: "no resources", 4: "timeout", 5: "unsupported request",
            6: "invalid communication identifier", 7: "invalid communication instance", 8: "invalid service identifier",
            9: "invalid transport service type", 10: "stale connection", 12: "invalid GID", 13: "invalid LID",
            14: "invalid service level", 15: "invalid traffic class", 16: "invalid hop limit",
            17: "invalid packet rate", 24: "redirected", 25: "redirected to another port", 26: "invalid path MTU",
            27: "not enough responder resources", 28: "consumer reject", 29: "invalid RNR retry count",
            30: "duplicate communication identifier", 31: "invalid class version",
        ]
        return "\(rawValue) \(names[rawValue] ?? "unknown reason")"
    }
}

/// Where datagrams go: what the answer of a datagram service, or joining a group, tells. The corresponding C type is
/// `struct rdma_ud_param`.
public struct DatagramEndpoint: Hashable, Sendable {
    /// The way there.
    public let path: PathAttributes
    /// The queue pair number there, 24 bits; 0xFFFFFF for a group.
    public let queuePair: UInt32
    /// The key that the queue pair there checks.
    public let qkey: UInt32
    /// Bytes from the peer's program, filled up with zeros; empty for a group.
    public let privateData: [UInt8]

    /// The address handle to it, for queue pairs of that domain.
    public func destination(in domain: ProtectionDomain) throws(VerbsError) -> DatagramDestination {
        DatagramDestination(try domain.makeAddressHandle(path), queuePair: queuePair, qkey: qkey)
    }

    init(_ native: rdma_ud_param, isGroup: Bool) {
        path = unsafe PathAttributes(native.ah_attr)
        queuePair = unsafe native.qp_num
        qkey = unsafe native.qkey
        // For a group the field holds the context of the join instead.
        privateData = isGroup ? [] : unsafe ConnectionParameters.bytes(native.private_data, native.private_data_len)
    }
}

// Events that are failures, as errors.
extension ConnectionEvent.Kind {
    /// What a failure means, and what to do; `nil` for events that are none.
    public var error: VerbsError? {
        switch self {
        case .addressError(let code):
            VerbsError(
                code == ETIMEDOUT ? .timedOut : .unreachable, verb: "rdma_resolve_addr", code: code,
                subject: "ADDR_ERROR",
                remedy: "There is no route to the address through an RDMA device: check `ip route get` and `verbs info`"
            )
        case .routeError(let code):
            VerbsError(
                code == ETIMEDOUT ? .timedOut : .unreachable, verb: "rdma_resolve_route", code: code,
                subject: "ROUTE_ERROR", remedy: "Check the route to the address, on InfiniBand the subnet manager")
        case .connectError(let code):
            VerbsError(
                .system, verb: "rdma_connect", code: code, subject: "CONNECT_ERROR",
                remedy: "The connection broke down while it was made; try again")
        case .unreachable(let why, _): Self.error(why)
        case .rejected(let reason, _):
            VerbsError(
                .rejected, verb: "rdma_connect", code: ECONNREFUSED, subject: "REJECTED", value: "\(reason)",
                remedy: reason == .invalidServiceID
                    ? "Nobody listens on that port in that port space: start the server, check the port"
                    : reason == .consumer
                        ? "The peer's program refused; its private data may say why"
                        : "The peer's connection manager refused; try again with another queue pair")
        case .multicastError(let group, let code):
            VerbsError(
                .unreachable, verb: "rdma_join_multicast", code: code, subject: "MULTICAST_ERROR",
                value: group?.description, remedy: "Check that the device's network interface takes part in multicast")
        case .disconnected:
            VerbsError(.disconnected, verb: "rdma_connect", subject: "DISCONNECTED", remedy: "Connect again")
        case .deviceRemoval:
            VerbsError(
                .disconnected, verb: "rdma_connect", subject: "DEVICE_REMOVAL",
                remedy: "The device is gone; release everything made on it")
        default: nil
        }
    }

    private static func error(_ why: ConnectionEvent.Unreachable) -> VerbsError {
        switch why {
        case .error(let code):
            VerbsError(
                code == ETIMEDOUT ? .timedOut : .unreachable, verb: "rdma_connect", code: code, subject: "UNREACHABLE",
                remedy: "The peer does not answer: check its address, and that its RDMA device is up")
        case .datagramStatus(let status):
            VerbsError(
                .rejected, verb: "rdma_connect", code: ECONNREFUSED, subject: "UNREACHABLE",
                value: "datagram service status \(status)",
                remedy: status == 1
                    ? "Nobody listens on that port in the port space UDP: start the server, check the port"
                    : "The peer's program refused; its private data may say why")
        }
    }
}

extension ConnectionEvent.Kind {
    /// Copies what an event says. `request` is the identifier made for a request, `group` the address of a join.
    init(
        _ native: rdma_cm_event, portSpace: ConnectionIdentifier.PortSpace, request: ConnectionIdentifier?,
        group: SocketAddress?
    ) {
        // Error numbers come negative from the kernel; reasons and statuses of the protocol are positive.
        let status = unsafe native.status
        let code = status == .min ? EIO : abs(status)
        let isDatagram = portSpace == .udp
        func datagram(isGroup: Bool = false) -> DatagramEndpoint {
            unsafe DatagramEndpoint(native.param.ud, isGroup: isGroup)
        }
        func parameters() -> ConnectionParameters {
            isDatagram
                ? ConnectionParameters(privateData: datagram().privateData)
                : unsafe ConnectionParameters(native.param.conn)
        }
        switch unsafe native.event {
        case .RDMA_CM_EVENT_ADDR_RESOLVED: self = .addressResolved
        case .RDMA_CM_EVENT_ADDR_ERROR: self = .addressError(code: code)
        case .RDMA_CM_EVENT_ROUTE_RESOLVED: self = .routeResolved
        case .RDMA_CM_EVENT_ROUTE_ERROR: self = .routeError(code: code)
        case .RDMA_CM_EVENT_CONNECT_REQUEST:
            self =
                request.map { .connectRequest($0, parameters()) }
                ?? .unknown(unsafe native.event.rawValue, code: code)
        case .RDMA_CM_EVENT_CONNECT_RESPONSE: self = .connectResponse(parameters())
        case .RDMA_CM_EVENT_CONNECT_ERROR: self = .connectError(code: code)
        case .RDMA_CM_EVENT_UNREACHABLE:
            self = .unreachable(
                isDatagram && status > 0 ? .datagramStatus(status) : .error(code),
                privateData: parameters().privateData)
        case .RDMA_CM_EVENT_REJECTED:
            self = .rejected(
                RejectReason(rawValue: UInt16(clamping: code)), privateData: unsafe native.rejectData)
        case .RDMA_CM_EVENT_ESTABLISHED:
            self = isDatagram ? .datagramEstablished(datagram()) : .established(parameters())
        case .RDMA_CM_EVENT_DISCONNECTED: self = .disconnected
        case .RDMA_CM_EVENT_DEVICE_REMOVAL: self = .deviceRemoval
        case .RDMA_CM_EVENT_MULTICAST_JOIN: self = .multicastJoined(group, datagram(isGroup: true))
        case .RDMA_CM_EVENT_MULTICAST_ERROR: self = .multicastError(group, code: code)
        case .RDMA_CM_EVENT_ADDR_CHANGE: self = .addressChange
        case .RDMA_CM_EVENT_TIMEWAIT_EXIT: self = .timeWaitExit
        default: self = .unknown(unsafe native.event.rawValue, code: code)
        }
    }
}

extension rdma_cm_event {
    /// A rejection is in the connected form whatever the port space.
    fileprivate var rejectData: [UInt8] {
        unsafe ConnectionParameters.bytes(param.conn.private_data, param.conn.private_data_len)
    }
}
