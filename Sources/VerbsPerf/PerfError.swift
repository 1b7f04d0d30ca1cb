// SPDX-License-Identifier: Apache-2.0

/// Why a measurement could not start or finish. The description is a full sentence for people, with the remedy.
package enum PerfError: Error, Equatable, Sendable {
    /// Options that do not fit together or are out of range.
    case usage(String)
    /// The peer cannot be reached over TCP, or does not answer there.
    case peerUnreachable(String)
    /// The peer answers, but not as this test expects.
    case protocolMismatch(String)
    /// The peer closed its connection or died in the middle.
    case peerGone(String)
    /// Nothing moved for the stall limit.
    case stalled(String)
    /// A verb failed, or a work request completed with an error.
    case device(String)
    /// The bytes or results of some messages are not what was sent.
    case corrupted(String)
    /// A measured value is below the limit that the user set.
    case belowLimit(String)
}

extension PerfError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .usage(let text), .peerUnreachable(let text), .protocolMismatch(let text), .peerGone(let text),
            .stalled(let text), .device(let text), .corrupted(let text), .belowLimit(let text):
            text
        }
    }

    /// Exit status of the command, in the range of sysexits: 64 for usage, 68 and 69 for the peer, 70 for the device,
    /// 76 for the protocol, 1 for data and limits.
    package var exitStatus: Int32 {
        switch self {
        case .usage: 64
        case .peerUnreachable: 68
        case .peerGone, .stalled: 69
        case .device: 70
        case .protocolMismatch: 76
        case .corrupted, .belowLimit: 1
        }
    }
}
