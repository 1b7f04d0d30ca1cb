// SPDX-License-Identifier: Apache-2.0

/// The text that perftest prints, column by column, so that scripts which read it read this too.
package enum ReportText {
    package static let rule = String(repeating: "-", count: 87)

    package static func bandwidthHeading(gigabits: Bool) -> String {
        let unit = gigabits ? "Gb" : "MB"
        return " #bytes     #iterations    BW peak[\(unit)/sec]    BW average[\(unit)/sec]   MsgRate[Mpps]"
    }

    /// - Parameter ownAverage: of a bidirectional test, this end's part: that decides how many places are shown.
    package static func row(_ report: BandwidthReport, gigabits: Bool, ownAverage: Double? = nil) -> String {
        let size = padded("\(report.size)", 7)
        // Small rates in Gb get six places.
        if gigabits, (ownAverage ?? report.average) < 0.1 {
            return " \(size)    \(report.iterations)           \(fixed(report.peak, 6, width: 7))            "
                + "\(fixed(report.average, 6, width: 7))            \(fixed(report.messageRate, 6, width: 7))"
        }
        return " \(size)    \(padded("\(report.iterations)", 10))       \(fixed(report.peak, 2, width: 7))            "
            + "\(fixed(report.average, 2, width: 7))\t\t   \(fixed(report.messageRate, 6, width: 7))"
    }

    package static let latencyHeading =
        " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    t_stdev[usec]   "
        + "99% percentile[usec]   99.9% percentile[usec] "

    package static let timedLatencyHeading = " #bytes        #iterations       t_avg[usec]    tps average"

    package static func row(_ summary: LatencySummary) -> String {
        if let rate = summary.transactionsPerSecond {
            return " \(padded("\(summary.size)", 7))       \(summary.iterations)            "
                + "\(fixed(summary.average, 2, width: 7))        \(fixed(rate, 2, width: 7))"
        }
        return " \(padded("\(summary.size)", 7)) \(summary.iterations)          \(fixed(summary.least, 2, width: 7))"
            + "        \(fixed(summary.most, 2, width: 7))      \(fixed(summary.typical, 2, width: 7))  \t       "
            + "\(fixed(summary.average, 2, width: 7))     \t\(fixed(summary.deviation, 2, width: 7))\t\t"
            + "\(fixed(summary.percentile99, 2, width: 7)) \t\t\(fixed(summary.percentile99_9, 2, width: 7))"
    }

    /// The list of `-H` (sorted) and `-U`: one line a sample, numbered from 1.
    package static func samples(_ samples: [UInt64], roundTrips: Double) -> String {
        var text = "#, usec\n"
        for (index, sample) in samples.enumerated() {
            text += "\(index + 1), \(shortest(Double(sample) / 1000 / roundTrips))\n"
        }
        return text
    }

    /// The line of one end of one queue pair, and below it its GID in perftest's decimal notation.
    package static func address(_ record: DestinationRecord, isLocal: Bool, operation: PerfTest.Operation) -> String {
        var text = " \(isLocal ? "local" : "remote") address: LID \(hex(UInt64(record.lid), width: 4, alternate: true))"
        text += " QPN \(hex(UInt64(record.queuePairNumber), width: 6, alternate: true))"
        text += " PSN \(hex(UInt64(record.psn), width: 6, alternate: true))"
        // As in perftest, ATOMIC shows no more than SEND.
        if operation == .read { text += " OUT \(hex(UInt64(record.outstandingReads), width: 4, alternate: true))" }
        if operation == .read || operation == .write {
            text += " RKey \(hex(UInt64(record.rkey), width: 8, alternate: true))"
            text += " VAddr \(hex(record.address, width: 16, alternate: true))"
        }
        guard record.form == .withGID else { return text }
        let parts = record.gid.map { $0 < 10 ? "0\($0)" : "\($0)" }
        return text + "\n GID: " + parts.joined(separator: ":")
    }

    /// `printf`'s `%#0*x`: the width includes the prefix, which a zero does not get.
    static func hex(_ value: UInt64, width: Int, alternate: Bool) -> String {
        let digits = String(value, radix: 16)
        let prefix = alternate && value != 0 ? "0x" : ""
        return prefix + String(repeating: "0", count: max(0, width - prefix.count - digits.count)) + digits
    }
}

/// What stands above the table.
package struct ReportBanner: Sendable {
    package var plan: PerfPlan
    package var isServer: Bool
    package var deviceName: String
    package var linkLayer: String
    package var pathMTU: Int
    package var gidIndex: Int?
    package var inlineSize: Int
    package var outstandingReads: Int

    package init(
        plan: PerfPlan, isServer: Bool, deviceName: String, linkLayer: String, pathMTU: Int, gidIndex: Int?,
        inlineSize: Int, outstandingReads: Int
    ) {
        self.plan = plan
        self.isServer = isServer
        self.deviceName = deviceName
        self.linkLayer = linkLayer
        self.pathMTU = pathMTU
        self.gidIndex = gidIndex
        self.inlineSize = inlineSize
        self.outstandingReads = outstandingReads
    }

    package var text: String {
        var lines = [ReportText.rule, "                    \(title)Test"]
        if plan.useEvents { lines.append(" Test with events. Using \(deviceName)_comp0") }
        lines += [
            " Dual-port       : OFF\t\tDevice         : \(deviceName)",
            " Number of qps   : \(plan.queuePairs)\t\tTransport type : IB",
            " Connection type : \(plan.connection.rawValue)\t\tUsing SRQ      : \(plan.useSharedReceiveQueue ? "ON" : "OFF")",
            " ibv_wr* API     : OFF",
        ]
        if !isServer || plan.bidirectional { lines.append(" TX depth        : \(plan.transmitDepth)") }
        if plan.postList > 1 { lines.append(" Post List       : \(plan.postList)") }
        if plan.receivePostList > 1 { lines.append(" Recv Post List  : \(plan.receivePostList)") }
        if plan.test.operation == .send, isServer || plan.bidirectional {
            lines.append(" RX depth        : \(plan.receiveDepth)")
        }
        if plan.test.measure == .bandwidth { lines.append(" CQ Moderation   : \(plan.completionModeration)") }
        lines.append(" Mtu             : \(pathMTU)[B]")
        lines.append(" Link type       : \(linkLayer)")
        if let gidIndex { lines.append(" GID index       : \(gidIndex)") }
        if plan.test.isResponderPassive {
            lines.append(" Outstand reads  : \(outstandingReads)")
        } else {
            lines.append(" Max inline data : \(inlineSize)[B]")
        }
        lines.append(" rdma_cm QPs\t : \(plan.useConnectionManager ? "ON" : "OFF")")
        lines += [" Data ex. method : \(plan.useConnectionManager ? "rdma_cm" : "Ethernet")", ReportText.rule]
        return lines.joined(separator: "\n")
    }

    private var title: String {
        let verb =
            switch plan.test.operation {
            case .send: "Send "
            case .write: "RDMA_Write "
            case .read: "RDMA_Read "
            case .atomic: "Atomic \(plan.atomic.rawValue) "
            }
        guard plan.test.measure == .bandwidth else { return verb + "Latency " }
        return verb + (plan.bidirectional ? "Bidirectional " : "") + (plan.postList > 1 ? "Post List " : "") + "BW "
    }
}
