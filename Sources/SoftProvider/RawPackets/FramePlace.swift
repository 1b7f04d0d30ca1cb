// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import PacketIO
import RoCETransport
import RoCEWire
import VerbsABI

/// A place that carries flow rules out for an interface, and brings the frames that they select.
///
/// One at a time serves the raw packet queue pairs of a device. Whoever holds the context's lock calls it.
protocol FramePlace: AnyObject {
    var place: ProviderFlowPlace { get }
    /// Why the kernel's stack still sees what a rule selects; `nil` where it does not.
    func reasonForCopies(of id: FlowID) -> String?
    /// The path of the socket of the `verbs steerd` that lent what this place receives from; `nil` where it is the process's own.
    var lender: String? { get }
    /// Readable when ``receive(into:limit:)`` has something.
    var descriptors: [Int32] { get }

    /// Changes when ``descriptors`` do while the rules stay.
    var generation: Int { get }

    /// Adds a rule to those that are carried out.
    func insert(_ rule: FlowRule, _ id: FlowID) throws(FramePlaceRefusal)
    func remove(_ id: FlowID)

    /// Takes frames, without blocking: all that some rule selects, and perhaps others. Valid until the next call.
    func receive(into frames: UnsafeMutablePointer<ReceivedFrame>, limit: Int) -> Int

    /// Frames name the rule that selected them, which is all that happens to them.
    var namesRules: Bool { get }
    /// What a rule has counted, for a place that counts by itself.
    func counters(of id: FlowID) -> ProviderFlowCounters?

    /// For a place that fills receives in place: takes those that are posted, and completes those that are filled.
    /// - Returns: whether any was.
    func exchange(with engine: inout Engine, _ qpn: QPN) -> Bool
    /// Gives up what it holds of the receives of a queue pair, before they are flushed or the place goes.
    func close(_ engine: inout Engine, _ qpn: QPN)

    /// Why it cannot go on, found out after the rules were inserted.
    var failure: FramePlaceRefusal? { get }
    /// Has the kernel send what ``send(_:)`` took: `false` while something is left.
    func finishSending() -> Bool
    /// Whether it sends; others leave that to AF_PACKET.
    var sends: Bool { get }
    /// Sends frames, for a place that does.
    func send(_ batch: borrowing FrameBatch) -> FrameSender.Outcome

    /// Frames that came, and were lost for want of room.
    var dropped: UInt64 { get }
}

extension FramePlace {
    func reasonForCopies(of id: FlowID) -> String? { nil }
    var namesRules: Bool { false }
    var lender: String? { nil }
    var generation: Int { 0 }
    func counters(of id: FlowID) -> ProviderFlowCounters? { nil }
    func exchange(with engine: inout Engine, _ qpn: QPN) -> Bool { false }
    var sends: Bool { false }
    func send(_ batch: borrowing FrameBatch) -> FrameSender.Outcome { .down }
    func finishSending() -> Bool { true }
    var failure: FramePlaceRefusal? { nil }
    func close(_ engine: inout Engine, _ qpn: QPN) {}
}

/// Why a place cannot carry a rule out: for people, with what would help.
struct FramePlaceRefusal: Error {
    let reason: String
    /// What is missing is a privilege.
    var isOfPrivilege = false

    init(_ reason: String, isOfPrivilege: Bool = false) {
        self.reason = reason
        self.isOfPrivilege = isOfPrivilege
    }

    func refusal(of place: ProviderFlowPlace) -> ProviderFlowPlacement.Refusal {
        .init(place: place, reason: reason, isOfPrivilege: isOfPrivilege)
    }

    init(_ error: PacketIOError) {
        if case .system(let call, let code) = error, code == EPERM || code == EACCES {
            self.init("\(call) needs CAP_NET_RAW: run as root, or give the program the capability", isOfPrivilege: true)
        } else {
            self.init(error.description)
        }
    }
}
