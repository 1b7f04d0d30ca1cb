// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Verbs

struct InfoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "info",
        abstract: "Show a device: link, ports, GIDs and which one is the default and why; with -v its limits.",
        discussion: """
            Examples:
              verbs info                 all devices
              verbs info -v -d rxe0      one, with its limits and counters
              verbs info --json
            """)

    @Option(
        name: [.customShort("d"), .customLong("ib-dev")], help: "The device, by its name or its network interface.")
    var device: String?

    @Flag(name: .shortAndLong, help: "Show limits, capabilities and counters too.")
    var verbose = false

    @Flag(name: .long, help: "Print everything as JSON.")
    var json = false

    func run() throws {
        let devices = try device.map { [try Device.named($0)] } ?? Device.all()
        var descriptions: [DeviceDescription] = []
        var failures = 0
        for device in devices {
            do {
                descriptions.append(try DeviceDescription(device))
            } catch {
                failures += 1
                CommandOutput.note("\(device.name): \(error)")
            }
        }
        if json {
            try CommandOutput.json(descriptions)
        } else {
            print(descriptions.map { $0.text(verbose: verbose) }.joined(separator: "\n\n"))
        }
        guard failures == 0, !devices.isEmpty else { throw ExitCode(1) }
    }
}

/// All that can be told about a device, for text and JSON.
struct DeviceDescription: Encodable {
    struct GIDLine: Encodable {
        var index: Int
        var gid: String
        var kind: String
        var interface: String?
        var isDefault: Bool
    }

    struct Link: Encodable {
        var kind: String
        var detail: String
        var reason: String
    }

    struct Port: Encodable {
        var number: Int
        var state: String
        var linkLayer: String
        var activeMTU: Int
        var maxMTU: Int
        var lid: Int
        var maxMessageLength: Int
        var gids: [GIDLine]
        var defaultGIDReason: String?
    }

    var name: String
    var kind: String
    var interface: String?
    var nodeGUID: String
    var firmwareVersion: String
    var link: Link?
    var limits: [String: UInt64]
    var features: [String]
    var ports: [Port]
    var counters: [String: UInt64]

    init(_ device: Device) throws(VerbsError) {
        let context = try device.open()
        let attributes = try context.attributes
        name = device.name
        kind = "\(device.kind)"
        interface = device.interface
        nodeGUID = attributes.nodeGUID.colonHex
        firmwareVersion = attributes.firmwareVersion
        link = context.link.map { Link(kind: $0.kind, detail: $0.detail, reason: $0.reason) }
        limits = Self.limits(attributes)
        features = Self.features(attributes)
        counters = Dictionary(context.counters.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        ports = []
        for number in 1...UInt8(clamping: max(1, attributes.portCount)) {
            ports.append(Self.port(try context.port(number)))
        }
    }

    private static func port(_ port: PortAttributes) -> Port {
        let choice = port.preferredGID()
        return Port(
            number: Int(port.number), state: port.state.name, linkLayer: port.linkLayer.name,
            activeMTU: port.activeMTU.byteCount, maxMTU: port.maxMTU.byteCount, lid: Int(port.lid),
            maxMessageLength: Int(port.maxMessageLength),
            gids: port.gids.map {
                GIDLine(
                    index: $0.index, gid: "\($0.gid)", kind: "\($0.kind)", interface: $0.interface,
                    isDefault: $0.index == choice?.entry.index)
            },
            defaultGIDReason: choice?.reason)
    }

    private static func limits(_ attributes: DeviceAttributes) -> [String: UInt64] {
        [
            "max_mr_size": attributes.maxRegionLength, "max_qp": UInt64(attributes.maxQueuePairs),
            "max_qp_wr": UInt64(attributes.maxQueuePairDepth), "max_sge": UInt64(attributes.maxElements),
            "max_sge_rd": UInt64(attributes.maxReadElements), "max_cq": UInt64(attributes.maxCompletionQueues),
            "max_cqe": UInt64(attributes.maxCompletionQueueCapacity), "max_mr": UInt64(attributes.maxRegions),
            "max_pd": UInt64(attributes.maxProtectionDomains), "max_qp_rd_atom": UInt64(attributes.maxReadsAsTarget),
            "max_qp_init_rd_atom": UInt64(attributes.maxReadsAsInitiator), "max_mw": UInt64(attributes.maxWindows),
            "max_ah": UInt64(attributes.maxAddressHandles), "max_srq": UInt64(attributes.maxSharedReceiveQueues),
            "max_srq_wr": UInt64(attributes.maxSharedReceiveQueueDepth),
            "max_srq_sge": UInt64(attributes.maxSharedReceiveQueueElements),
            "max_pkeys": UInt64(attributes.maxPartitionKeys),
        ]
    }

    private static func features(_ attributes: DeviceAttributes) -> [String] {
        var features: [String] = []
        switch attributes.atomicScope {
        case .none: break
        case .device: features.append("atomics (among this device's)")
        case .global: features.append("atomics (with the processor's)")
        }
        if attributes.hasWindowsType1 { features.append("memory windows of type 1") }
        if attributes.hasWindowsType2 { features.append("memory windows of type 2") }
        if attributes.hasAtomicWrite { features.append("ATOMIC WRITE") }
        if attributes.hasFlushGlobal { features.append("FLUSH") }
        if attributes.hasMemoryManagementExtensions { features.append("memory management extensions") }
        if attributes.hasSharedReceiveQueues { features.append("shared receive queues") }
        return features
    }

    func text(verbose: Bool) -> String {
        var lines = ["\(name): \(kind)" + (interface.map { ", interface \($0)" } ?? "")]
        lines.append("  node GUID     \(nodeGUID)")
        if !firmwareVersion.isEmpty { lines.append("  firmware      \(firmwareVersion)") }
        if let link {
            lines.append("  link          " + link.kind + (link.detail.isEmpty ? "" : " (\(link.detail))"))
            if !link.reason.isEmpty { lines.append("    not faster: \(link.reason)") }
        }
        if verbose {
            lines.append("  features      \(features.isEmpty ? "-" : features.joined(separator: ", "))")
            let width = (limits.keys.map(\.count).max() ?? 0) + 2
            for (name, value) in limits.sorted(by: { $0.key < $1.key }) {
                lines.append("  " + name + String(repeating: " ", count: width - name.count) + "\(value)")
            }
        }
        for port in ports { lines += Self.lines(port) }
        if verbose, !counters.isEmpty {
            lines.append("  counters")
            for (name, value) in counters.sorted(by: { $0.key < $1.key }) { lines.append("    \(name)  \(value)") }
        }
        return lines.joined(separator: "\n")
    }

    private static func lines(_ port: Port) -> [String] {
        var lines = [
            "  port \(port.number)        \(port.state), \(port.linkLayer), MTU \(port.activeMTU) (max \(port.maxMTU))"
        ]
        if port.lid != 0 { lines.append("    LID \(port.lid)") }
        guard !port.gids.isEmpty else { return lines + ["    no GID: nothing can reach this port over RoCE"] }
        var table = AlignedTable(heading: ["", "index", "GID", "kind", "interface"])
        for line in port.gids {
            table.add([line.isDefault ? "*" : "", "\(line.index)", line.gid, line.kind, line.interface ?? "-"])
        }
        lines += table.text.split(separator: "\n").map { "    \($0)" }
        if let reason = port.defaultGIDReason { lines.append("    * is the default: \(reason)") }
        return lines
    }
}
