// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Which queue pairs receive what is sent to multicast groups. Short, so it is simply walked.
struct MulticastTable {
    private struct Attachment: Equatable {
        var group: GID
        var qpn: QPN
    }

    private var attachments: [Attachment] = []
    private let countMax: Int

    init(countMax: Int) { self.countMax = countMax }

    mutating func attach(_ qpn: QPN, group: GID) throws(EngineError) {
        let attachment = Attachment(group: group, qpn: qpn)
        if attachments.contains(attachment) { return }
        guard attachments.count < countMax else { throw .limitReached("multicast attachments") }
        attachments.append(attachment)
    }

    mutating func detach(_ qpn: QPN, group: GID) throws(EngineError) {
        guard let index = attachments.firstIndex(of: Attachment(group: group, qpn: qpn)) else {
            throw .invalidArgument("the queue pair is not attached to the group")
        }
        attachments.remove(at: index)
    }

    func hasAttachments(of qpn: QPN) -> Bool { attachments.contains { $0.qpn == qpn } }

    var count: Int { attachments.count }

    /// The queue pair of the `index`-th attachment, if that is to this group.
    func queuePair(_ index: Int, of group: GID) -> QPN? {
        attachments[index].group == group ? attachments[index].qpn : nil
    }
}
