// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Two ends with a communication management each, a clock, and a network between that carries bytes and does what a test
/// or a seed says.
struct ManagementWorld {
    /// One end: its management, and what its application has seen.
    struct End {
        var management: CommunicationManagement
        let address: GID
        var events: [CommunicationEvent] = []
    }

    /// A message under way.
    struct Parcel {
        let to: Int
        let bytes: [UInt8]
        let arrival: UInt64
    }

    var ends: [End]
    var now: UInt64 = 1_000_000_000
    var generator: SeededGenerator
    /// Every message that was sent, by its name.
    var sent: [(from: Int, name: String, at: UInt64)] = []
    /// The reasons of the REJs among them.
    var refusals: [RejectionReason] = []
    /// Decides what becomes of a message: how many copies arrive, and after how long each, in nanoseconds.
    var fate: (_ from: Int, _ name: String, _ generator: inout SeededGenerator) -> [UInt64] = { _, _, _ in [1_000] }
    private var network: [Parcel] = []

    init(seed: UInt64 = 1, configure: (inout CommunicationConfiguration) -> Void = { _ in }) {
        generator = SeededGenerator(seed: seed)
        ends = (0..<2).map { index in
            var configuration = CommunicationConfiguration(slot: UInt8(index + 1), nodeGUID: UInt64(index + 100))
            configure(&configuration)
            return End(
                management: CommunicationManagement(configuration: configuration),
                address: GID(ipv4: 0x0A00_0001 + UInt32(index)))
        }
    }

    static let service = ServiceID(portSpace: .tcp, port: 7471)

    /// The other end as `index` sees it.
    func peer(of index: Int) -> ManagementPeer {
        ManagementPeer(address: ends[1 - index].address, local: ends[index].address, localIndex: 0)
    }

    /// What end 0 asks end 1 for a connection with.
    func options(qpn: UInt32 = 0x10, privateData: [UInt8] = []) -> ConnectOptions {
        var options = ConnectOptions(
            serviceID: Self.service, peer: peer(of: 0), qpn: QPN(truncating: qpn), pathMTU: .bytes1024)
        options.responderResources = 3
        options.initiatorDepth = 5
        options.privateData = ConnectionAddresses(
            sourcePort: 40_000, source: ends[0].address, destination: ends[1].address
        ).prepended(to: privateData)
        return options
    }

    mutating func listen(backlog: Int = 16, tag: UInt = 7) throws {
        try ends[1].management.listen(to: Self.service, on: nil, tag: tag, backlog: backlog)
    }

    mutating func connect(_ options: ConnectOptions? = nil, tag: UInt = 3) throws -> CommunicationID {
        let options = options ?? self.options()
        return try ends[0].management.connect(options, tag: tag, now: now, using: &generator)
    }

    /// Sends one message by hand, as a peer that is no management of ours.
    mutating func deliver(_ message: CommunicationMessage, to index: Int, transactionID: UInt64 = 9) {
        ends[index].management.receive(
            ManagementDatagram(transactionID: transactionID, message: message), from: peer(of: index), now: now,
            using: &generator)
        collect(index)
    }

    /// Carries messages and lets time pass until nothing happens before `end`.
    mutating func run(for duration: UInt64 = 10_000_000) {
        let end = now + duration
        while true {
            for index in ends.indices { collect(index) }
            let arrival = network.map(\.arrival).min() ?? .max
            let timer = ends.compactMap(\.management.nextDeadline).min() ?? .max
            let next = min(arrival, timer)
            guard next <= end else { break }
            now = max(now, next)
            for index in ends.indices { ends[index].management.advance(to: now) }
            let due = network.filter { $0.arrival <= now }
            network.removeAll { $0.arrival <= now }
            for parcel in due {
                guard case .datagram(let datagram) = ManagementDatagram.parse(parcel.bytes.span.bytes) else {
                    preconditionFailure("our own message does not parse")
                }
                ends[parcel.to].management.receive(datagram, from: peer(of: parcel.to), now: now, using: &generator)
                collect(parcel.to)
            }
        }
        now = end
    }

    private mutating func collect(_ index: Int) {
        while let message = ends[index].management.nextMessage() {
            let name = message.datagram.message.description
            sent.append((index, name, now))
            if case .rejection(let rejection) = message.datagram.message { refusals.append(rejection.reason) }
            var bytes = [UInt8](repeating: 0, count: ManagementDatagram.byteCount)
            var storage = bytes.mutableSpan
            var span = storage.mutableBytes
            message.datagram.emit(into: &span)
            for delay in fate(index, name, &generator) {
                network.append(Parcel(to: 1 - index, bytes: bytes, arrival: now + delay))
            }
        }
        while let event = ends[index].management.nextEvent() { ends[index].events.append(event) }
    }

    /// How often an end sent a message.
    func count(_ name: String, from index: Int) -> Int { sent.count { $0.name == name && $0.from == index } }

    /// The names of an end's events, in order.
    func story(_ index: Int) -> [String] { ends[index].events.map(\.kind.name) }
}

extension CommunicationEvent.Kind {
    var name: String {
        switch self {
        case .request: "request"
        case .reply: "reply"
        case .established: "established"
        case .rejected(let reason, _): "rejected \(reason.rawValue)"
        case .unreachable: "unreachable"
        case .disconnected: "disconnected"
        case .timeWaitEnded: "timeWaitEnded"
        case .serviceRequest: "serviceRequest"
        case .serviceReply(let reply): "serviceReply \(reply.status.rawValue)"
        }
    }
}
