// SPDX-License-Identifier: Apache-2.0
import FlowPrograms
import FlowSteering
import PacketIO

/// The XDP program of an interface with the rules of one borrower, on the side of `verbs steerd`.
///
/// The borrower has the sockets that frames are sent to, and with the answer to its first rule what holds the program on the interface: so
/// the flows go on without a steerd. Rules are changed here, where it is known which the borrower may have.
final class InterfaceLease {
    /// The most rules of a borrower.
    static let ruleCountMax = 4096

    let interface: NetworkInterface
    let mode: XDPAttachment.Mode
    private var table: XDPRuleTable
    private var isAttached = false
    private var age: UInt64 = 0

    /// Makes the program, and sockets for all queues; nothing is on the interface yet.
    /// - Parameter loans: takes the sockets, for each queue one.
    init(
        _ interface: NetworkInterface, _ mode: XDPAttachment.Mode, _ layout: XDPFramesLayout, loans: inout [XDPLoan]
    ) throws(PacketIOError) {
        self.interface = interface
        self.mode = mode
        var options = XDPRuleTable.Options()
        options.marksFrames = true
        options.ruleCountMax = Self.ruleCountMax
        options.takesFragments = layout.takesFragments
        options.socketCount = layout.queueCount
        table = try XDPRuleTable(options)
        for queue in 0..<layout.queueCount {
            let loan = try XDPLoan(interface: interface.index, queue: queue, layout)
            try table.setSocket(queue, to: loan.descriptor)
            loans.append(loan)
        }
    }

    /// The array that rules count in, to be passed.
    var countsDescriptor: Int32 { table.countsDescriptor }

    /// Adds a rule that the borrower may have.
    /// - Returns: the entry that it counts in, and for the first rule what holds the program on the interface.
    func insert(_ rule: FlowRule, _ id: FlowID) throws(Refusal) -> (entry: Int, attachment: Int32?) {
        do throws(XDPRuleError) {
            try table.insert([XDPRule(rule, id: id, order: FlowOrder(rule, age: age))])
            age += 1
        } catch {
            throw Refusal(error.description)
        }
        let entry = table.countsEntry(of: id) ?? 0
        guard !isAttached else { return (entry, nil) }
        do throws(PacketIOError) {
            try table.attach(to: interface.index, mode: mode)
        } catch {
            _ = try? table.remove(id)
            throw Refusal(XDPSelection.reason(error, interface))
        }
        isAttached = true
        return (entry, table.attachmentDescriptor)
    }

    func remove(_ id: FlowID) throws(Refusal) {
        do throws(XDPRuleError) {
            try table.remove(id)
        } catch {
            throw Refusal(error.description)
        }
    }
}
