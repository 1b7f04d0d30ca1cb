// SPDX-License-Identifier: Apache-2.0
import RoCETransport

/// Checks that what a node that is cut off for ever was connected to ends within the time that the retries take.
struct OutageChecker {
    let outage: Outage
    /// From the outage to the last possible failure.
    let budgetNanoseconds: UInt64
    let findings: Findings

    init?(options: WorkloadOptions, findings: Findings) {
        guard let outage = options.outage, outage.isPermanent else { return nil }
        self.outage = outage
        self.findings = findings
        // Each of the transmissions may wait four times the timeout (IBTA 9.7.6.1.3). What was on its way when the
        // outage began may still make progress, and a request may be posted as late as the application pauses.
        let timeout = UInt64(4_096) << UInt64(options.timeout)
        let transmissions = UInt64(options.retryCount) + 1
        budgetNanoseconds = transmissions * 4 * timeout + 10_000_000
    }

    /// - Parameter endedAt: when the send queue failed, or was complete.
    func check(_ name: @autoclosure () -> String, node: Int, peer: Int, endedAt: Timestamp?) {
        guard node == outage.node || peer == outage.node else { return }
        guard let endedAt else {
            findings.add("\(name()): cut off, but never ended")
            return
        }
        if endedAt > outage.start + budgetNanoseconds {
            findings.add("\(name()): ended \(endedAt - outage.start) ns after it was cut off, not \(budgetNanoseconds)")
        }
    }
}
