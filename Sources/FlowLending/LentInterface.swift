// SPDX-License-Identifier: Apache-2.0
import FlowPrograms
import FlowSteering
import PacketIO

/// AF_XDP sockets that `verbs steerd` lent, with the program that sends frames to them: the borrower's side.
///
/// What has been inserted goes on whatever becomes of the steerd. Changes need the one that lent it.
package final class LentInterface {
    /// How long a rule that is removed is waited for: whoever removes it holds the device up meanwhile.
    private static let removalMilliseconds: Int32 = 200

    private let path: String
    private let connection: LocalSocket
    private let layout: XDPFramesLayout
    /// The sockets and their memory, and the array that rules count in, until they are opened.
    private let sockets: PassedDescriptors
    private var counts: BPFSharedArray?
    private var entries: [FlowID: Int] = [:]
    /// What holds the program on the interface, from the first rule on.
    private var attachment: PassedDescriptors?
    /// An answer did not come. It may come yet, for another change.
    private var isLost = false

    init(path: String, connection: consuming LocalSocket, _ layout: XDPFramesLayout, _ sockets: PassedDescriptors) {
        self.path = path
        self.connection = connection
        self.layout = layout
        self.sockets = sockets
    }

    /// The sockets, once.
    package func openFrames() throws(Refusal) -> XDPFrames {
        do throws(PacketIOError) {
            let frames = try XDPFrames(lent: sockets, layout)
            counts = try BPFSharedArray(
                sockets, entryCount: InterfaceLease.ruleCountMax, wordCount: XDPRuleTable.countWords)
            return frames
        } catch {
            throw Refusal("the sockets that steerd at \(path) lent are of no use: \(error)")
        }
    }

    /// Frames that the rule matches come from now on, marked with its identifier, and no longer to the kernel's stack.
    package func insert(_ rule: FlowRule, _ id: FlowID) throws(Refusal) {
        let (reply, passed) = try ask(.insert(id, rule))
        guard case .inserted(let entry) = reply else { throw unexpected }
        if passed.count > 0 { attachment = passed }
        guard attachment != nil else {
            throw Refusal(
                "steerd at \(path) granted the flow, and what holds it did not come: has this process used up its descriptors?"
            )
        }
        entries[id] = entry
    }

    package func remove(_ id: FlowID) throws(Refusal) {
        entries[id] = nil
        guard try ask(.remove(id), within: Self.removalMilliseconds).0 == .removed else { throw unexpected }
    }

    /// What a rule has counted, whether the steerd is there or not; `nil` for no such rule.
    package func counters(of id: FlowID) -> XDPRuleTable.Counters? {
        guard let entry = entries[id] else { return nil }
        switch counts {
        case .some(let counts): return XDPRuleTable.Counters(packets: counts[entry, 0], bytes: counts[entry, 1])
        case nil: return nil
        }
    }

    private var unexpected: Refusal { Refusal("what answers at \(path) is no steerd of this version") }

    private func ask(
        _ change: LendingChange, within milliseconds: Int32 = LendingClient.answerMilliseconds
    ) throws(Refusal) -> (LendingReply, PassedDescriptors) {
        guard !isLost, connection.send(change.bytes) else {
            throw Refusal(
                "the steerd at \(path) that lent the sockets has ended, or did not answer in time: the flows go on as they are; destroy and make the queue pair "
                    + "again for others")
        }
        let answer: (LendingReply, PassedDescriptors)
        do throws(Refusal) {
            answer = try LendingClient.anyAnswer(connection, path, descriptorCountMax: 1, within: milliseconds)
        } catch {
            isLost = true
            throw error
        }
        if case .refused(let reason) = answer.0 { throw Refusal("steerd at \(path) refuses: \(reason)") }
        return answer
    }
}
