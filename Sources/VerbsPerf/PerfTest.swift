// SPDX-License-Identifier: Apache-2.0

/// One of the eight measurements, named as on the command line.
package enum PerfTest: String, CaseIterable, Sendable, Codable {
    case sendBandwidth = "send-bw"
    case sendLatency = "send-lat"
    case writeBandwidth = "write-bw"
    case writeLatency = "write-lat"
    case readBandwidth = "read-bw"
    case readLatency = "read-lat"
    case atomicBandwidth = "atomic-bw"
    case atomicLatency = "atomic-lat"

    /// What one iteration does.
    package enum Operation: Sendable {
        case send, write, read, atomic
    }

    /// What is reported.
    package enum Measure: Sendable {
        case bandwidth, latency
    }

    package var operation: Operation {
        switch self {
        case .sendBandwidth, .sendLatency: .send
        case .writeBandwidth, .writeLatency: .write
        case .readBandwidth, .readLatency: .read
        case .atomicBandwidth, .atomicLatency: .atomic
        }
    }

    package var measure: Measure {
        switch self {
        case .sendBandwidth, .writeBandwidth, .readBandwidth, .atomicBandwidth: .bandwidth
        case .sendLatency, .writeLatency, .readLatency, .atomicLatency: .latency
        }
    }

    /// The perftest program that measures the same thing and can be the peer.
    package var perftestName: String {
        "ib_" + rawValue.replacing("-", with: "_")
    }

    /// READ and ATOMIC complete when the answer is there, so their round trip is the latency; SEND and WRITE are
    /// measured as ping and pong and halved.
    package var roundTripsPerLatency: Double {
        operation == .read || operation == .atomic ? 1 : 2
    }

    /// Both ends post work in latency tests of SEND and WRITE; a responder of READ and ATOMIC is passive.
    package var isResponderPassive: Bool {
        operation == .read || operation == .atomic
    }
}

/// The transports that the tests run over.
package enum PerfConnection: String, CaseIterable, Sendable, Codable {
    case rc = "RC"
    case uc = "UC"
    case ud = "UD"

    /// The operations that the transport has: UC has no answers, UD has messages only.
    package func supports(_ operation: PerfTest.Operation) -> Bool {
        switch self {
        case .rc: true
        case .uc: operation == .send || operation == .write
        case .ud: operation == .send
        }
    }
}

/// Which atomic operation the atomic tests post.
package enum PerfAtomic: String, CaseIterable, Sendable, Codable {
    case compareAndSwap = "CMP_AND_SWAP"
    case fetchAndAdd = "FETCH_AND_ADD"
}
