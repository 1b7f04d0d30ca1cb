// SPDX-License-Identifier: Apache-2.0
import RoCETransport
import RoCEWire

/// Checks the acknowledgements on the wire: neither the PSN nor the MSN of a responder ever goes back, modulo 2²⁴, and no
/// more messages are counted than packets.
final class AnswerChecker {
    /// A queue pair and the node that answers it; another node may have a queue pair of the same number.
    private struct Key: Hashable {
        var answerer: Int
        var node: Int
        var qpn: UInt32
    }

    private struct Answers {
        var firstPSN: PSN
        var firstMSN: MSN
        var psn: PSN
        var msn: MSN
    }

    private let findings: Findings
    private var answers: [Key: Answers] = [:]

    init(findings: Findings) { self.findings = findings }

    /// Requests of a queue pair of `node` are answered by the node `answerer`, from these numbers on.
    func expect(from answerer: Int, to node: Int, _ qpn: QPN, psn: UInt32, msn: UInt32) {
        let first = PSN(truncating: psn) - 1
        let count = MSN(truncating: msn)
        answers[Key(answerer: answerer, node: node, qpn: qpn.rawValue)] = Answers(
            firstPSN: first, firstMSN: count, psn: first, msn: count)
    }

    func check(_ frame: SentFrame) {
        // The opcode spares the rest the parsing.
        guard let opcode = frame.bytes.first.map(Opcode.init(rawValue:)),
            opcode == .rcAcknowledge || opcode == .rcAcknowledge.xrc,
            case .packet(let packet) = RoCEPacket.parse(frame.bytes.span.bytes),
            case .acknowledged = packet.aeth.syndrome.meaning
        else { return }
        let key = Key(answerer: frame.sender, node: frame.receiver, qpn: packet.bth.destination.rawValue)
        guard var last = answers[key] else {
            findings.add("acknowledgement for \(packet.bth.destination), which is not connected to its sender")
            return
        }
        if packet.bth.psn - last.psn < 0 { findings.add("acknowledgement of \(packet.bth.psn) after \(last.psn)") }
        if packet.aeth.msn - last.msn < 0 { findings.add("message number \(packet.aeth.msn) after \(last.msn)") }
        last.psn = packet.bth.psn
        last.msn = packet.aeth.msn
        if last.msn - last.firstMSN > last.psn - last.firstPSN {
            findings.add("\(last.msn - last.firstMSN) messages in \(last.psn - last.firstPSN) packets")
        }
        answers[key] = last
    }
}
