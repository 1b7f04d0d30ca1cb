// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import Verbs

struct DevicesCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "devices",
        abstract: "List the devices.",
        discussion: """
            Hardware first, then the kernel's software devices, then the embedded ones. The first that is active is the \
            default of the other commands.

            Examples:
              verbs devices
              verbs devices --json
            """)

    @Flag(name: .long, help: "Print the devices as JSON.")
    var json = false

    struct Row: Encodable {
        var name: String
        var kind: String
        var interface: String?
        var guid: String
        var state: String
        var gid: String?
    }

    func run() throws {
        let rows = Device.all().map(Self.row)
        if json { return try CommandOutput.json(rows) }
        guard !rows.isEmpty else {
            for reason in Device.unavailabilityReasons { CommandOutput.note(reason) }
            CommandOutput.note("No device. `verbs doctor` says what is missing.")
            throw ExitCode(1)
        }
        var table = AlignedTable(heading: ["device", "kind", "interface", "state", "node GUID", "default GID"])
        for row in rows { table.add([row.name, row.kind, row.interface ?? "-", row.state, row.guid, row.gid ?? "-"]) }
        print(table.text)
    }

    private static func row(_ device: Device) -> Row {
        var row = Row(
            name: device.name, kind: "\(device.kind)", interface: device.interface, guid: device.guid.colonHex,
            state: "unusable", gid: nil)
        guard let context = try? device.open(), let port = try? context.port(1) else { return row }
        row.state = port.state.name
        row.gid = port.preferredGID().map { "\($0.entry.gid)" }
        return row
    }
}

extension UInt64 {
    /// `0011:2233:4455:6677`, as ibv_devinfo writes a GUID.
    var colonHex: String {
        stride(from: 48, through: 0, by: -16).map { shift in
            let group = String(self >> UInt64(shift) & 0xFFFF, radix: 16)
            return String(repeating: "0", count: 4 - group.count) + group
        }.joined(separator: ":")
    }
}

extension PortAttributes.State {
    /// The names of ibv_devinfo without their prefix.
    var name: String {
        switch self {
        case .down: "down"
        case .initializing: "init"
        case .armed: "armed"
        case .active: "active"
        case .deferred: "active, deferred"
        case .unknown(let code): "state \(code)"
        }
    }
}

extension PortAttributes.LinkLayer {
    var name: String {
        switch self {
        case .infiniBand: "InfiniBand"
        case .ethernet: "Ethernet"
        case .unspecified: "Unspecified"
        }
    }
}
