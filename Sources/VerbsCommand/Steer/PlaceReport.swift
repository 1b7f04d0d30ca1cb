// SPDX-License-Identifier: Apache-2.0
import Verbs

/// Which places can carry out rules on an interface, found out by attaching one there for a moment.
struct PlaceReport: Encodable {
    struct Line: Encodable {
        var place: String
        var canCarryOut: Bool
        /// The kernel's stack does not see what rules select; `nil` where they are not carried out.
        var takesFromStack: Bool?
        /// Why not, or not from the stack, and what would help.
        var reason: String?
    }

    var device: String
    var interface: String?
    var mode: String
    var places: [Line]

    /// From an address that is for documentation only, to a port that nobody is given: a rule that any place can say, and that no packet
    /// matches.
    private static let probe = FlowRule.ipv4(source: "192.0.2.1").udp(destinationPort: 49_151)

    init(_ device: Device, mode: FlowMode, among places: Set<FlowPlace>) throws(VerbsError) {
        self.device = device.name
        interface = device.interface
        self.mode = mode.rawValue
        let domain = try device.open().makeProtectionDomain()
        let completions = try domain.context.makeCompletionQueue(capacity: 16)
        let queuePair = try domain.makeQueuePair(
            .rawPacket, options: QueuePairOptions(sendDepth: 1, receiveDepth: 1), completions: completions)
        try queuePair.start(port: 1)
        self.places = []
        for place in FlowPlace.allCases where places.contains(place) {
            self.places.append(Self.line(place, device.kind, queuePair, mode))
        }
    }

    private static func line(
        _ place: FlowPlace, _ kind: Device.Kind, _ queuePair: borrowing QueuePair, _ mode: FlowMode
    ) -> Line {
        if kind == .embedded, place == .verbs {
            return Line(
                place: place.rawValue, canCarryOut: false,
                reason: "this is the embedded device: `verbs devices` lists those of the kernel")
        }
        if kind != .embedded, place != .verbs {
            return Line(
                place: place.rawValue, canCarryOut: false,
                reason: "this is a device of the kernel: name the embedded one of its interface, soft_...")
        }
        do throws(VerbsError) {
            let flow = try queuePair.attach(probe, mode: mode, places: [place])
            let reason = flow.placement.reasonForCopies
            try flow.detach()
            return Line(place: place.rawValue, canCarryOut: true, takesFromStack: reason == nil, reason: reason)
        } catch {
            return Line(place: place.rawValue, canCarryOut: false, reason: reason(of: place, in: error))
        }
    }

    /// The part of an error that is about a place: it names each, with its reason, `xdp: ...; packet-ring: ...`.
    static func reason(of place: FlowPlace, in error: VerbsError) -> String {
        guard let subject = error.subject else { return "\(error)" }
        var isOfPlace = false
        var parts: [Substring] = []
        for part in subject.split(separator: "; ") {
            let named = FlowPlace.allCases.first { part.hasPrefix("\($0.rawValue): ") }
            if let named { isOfPlace = named == place }
            if isOfPlace { parts.append(named == nil ? part : part.dropFirst(place.rawValue.count + 2)) }
        }
        return parts.isEmpty ? "the device does not have it" : parts.joined(separator: "; ")
    }

    var text: String {
        var table = AlignedTable(heading: ["place", "can", "the kernel's stack has the packets too, or why not"])
        for line in places {
            let detail = line.canCarryOut ? line.reason.map { "yes: \($0)" } ?? "no" : line.reason ?? ""
            table.add([line.place, line.canCarryOut ? "yes" : "no", detail])
        }
        return "\(device)\(interface.map { ", interface \($0)" } ?? ""), mode \(mode)\n\n" + table.text
    }
}
