// SPDX-License-Identifier: Apache-2.0
import FoundationEssentials
import Glibc
import Verbs

extension DoctorFacts {
    /// Looks at this machine and process. Changes nothing: sockets are bound for the moment of the check.
    static func gathered() -> DoctorFacts {
        var facts = DoctorFacts()
        let limits = text("/proc/self/limits") ?? ""
        facts.lockedMemory = ResourceLimit(named: "Max locked memory", in: limits)
        facts.openFiles = ResourceLimit(named: "Max open files", in: limits)
        facts.capabilities = effectiveCapabilities()
        facts.modules = Set(["ib_core", "ib_uverbs", "rdma_ucm", "rdma_rxe", "siw"].filter(isLoaded))
        facts.deviceFiles =
            ((try? FileManager.default.contentsOfDirectory(atPath: "/dev/infiniband")) ?? [])
            .filter { $0.hasPrefix("uverbs") }.sorted()
        facts.devices = Device.all().map(deviceFacts)
        facts.systemUnavailability = Device.unavailabilityReasons.first
        facts.receiveBufferMax = number(in: "/proc/sys/net/core/rmem_max")
        facts.sendBufferMax = number(in: "/proc/sys/net/core/wmem_max")
        facts.processors = max(1, Int(sysconf(Int32(_SC_NPROCESSORS_ONLN))))
        facts.kernelRelease = text("/proc/sys/kernel/osrelease")?.trimmed ?? "unknown"
        let sockets = UDPSocketTable.gathered()
        facts.port = localAddresses().map { ($0, PortProbe.state(of: $0, sockets: sockets)) }
        return facts
    }

    private static func deviceFacts(_ device: Device) -> DeviceFacts {
        var facts = DeviceFacts(
            name: device.name, kind: "\(device.kind)", isKernel: device.kind != .embedded, activePorts: 0, ports: 0)
        do {
            let context = try device.open()
            let attributes = try context.attributes
            facts.ports = attributes.portCount
            for number in 1...UInt8(clamping: max(1, attributes.portCount)) {
                let port = try context.port(number)
                guard port.state == .active else { continue }
                facts.activePorts += 1
                if facts.defaultGID == nil, let choice = port.preferredGID() {
                    facts.defaultGID = "\(choice.entry.gid) (index \(choice.entry.index): \(choice.reason))"
                    facts.gidIsLinkLocal = choice.entry.gid.isLinkLocal
                }
                if facts.defaultGID == nil, port.linkLayer == .infiniBand {
                    facts.defaultGID = "none needed (InfiniBand)"
                }
            }
        } catch {
            facts.failure = "\(error)"
        }
        return facts
    }

    /// The addresses that the software device would use: those of the devices' GID tables.
    private static func localAddresses() -> [String] {
        var addresses: [String] = []
        for device in Device.all() {
            guard let context = try? device.open(), let port = try? context.port(1) else { continue }
            for entry in port.gids where entry.kind == .roceV2 && !entry.gid.isLinkLocal {
                let address = entry.gid.ipv4.map(PortProbe.dotted) ?? "\(entry.gid)"
                if !addresses.contains(address) { addresses.append(address) }
            }
        }
        return addresses
    }

    private static func effectiveCapabilities() -> UInt64 {
        let line = text("/proc/self/status")?.split(separator: "\n").first { $0.hasPrefix("CapEff:") }
        return line.flatMap { UInt64($0.dropFirst(7).filter { !$0.isWhitespace }, radix: 16) } ?? 0
    }

    private static func isLoaded(_ module: String) -> Bool {
        FileManager.default.fileExists(atPath: "/sys/module/\(module)")
    }

    private static func number(in path: String) -> Int? {
        text(path).flatMap { Int($0.trimmed) }
    }

    private static func text(_ path: String) -> String? { try? String(contentsOfFile: path, encoding: .utf8) }
}

extension DoctorFacts.ResourceLimit {
    /// Reads a line of `/proc/self/limits`; unlimited where there is none.
    init(named name: String, in text: String) {
        let line = text.split(separator: "\n").first { $0.hasPrefix(name) }
        let words = line?.dropFirst(name.count).split(separator: " ") ?? []
        soft = words.first.flatMap { UInt64($0) }
        hard = words.dropFirst().first.flatMap { UInt64($0) }
    }
}

extension String {
    fileprivate var trimmed: String { String(filter { !$0.isWhitespace }) }
}

/// The UDP sockets of this network namespace, from `/proc/net/udp` and `udp6`.
struct UDPSocketTable: Equatable {
    struct Entry: Equatable {
        var port: Int
        var userID: UInt32
        /// 0 for a socket of the kernel.
        var inode: UInt64
    }

    var entries: [Entry] = []

    /// Reads the text of one of the two files; lines that do not look right are left out.
    init(parsing text: String) {
        for line in text.split(separator: "\n").dropFirst() {
            let words = line.split(separator: " ")
            guard words.count > 9, let colon = words[1].lastIndex(of: ":"),
                let port = Int(words[1][words[1].index(after: colon)...], radix: 16), let user = UInt32(words[7]),
                let inode = UInt64(words[9])
            else { continue }
            entries.append(Entry(port: port, userID: user, inode: inode))
        }
    }

    static func gathered() -> UDPSocketTable {
        var table = UDPSocketTable(parsing: "")
        for path in ["/proc/net/udp", "/proc/net/udp6"] {
            guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { continue }
            table.entries += UDPSocketTable(parsing: text).entries
        }
        return table
    }

    /// Who holds the port, as far as this user may see it: the process, else the user, `nil` for the kernel.
    func owner(ofPort port: Int) -> String? {
        guard let entry = entries.first(where: { $0.port == port && $0.inode != 0 }) else { return nil }
        return Self.process(ofInode: entry.inode) ?? "a process of user \(entry.userID)"
    }

    private static func process(ofInode inode: UInt64) -> String? {
        let files = FileManager.default
        let wanted = "socket:[\(inode)]"
        for name in (try? files.contentsOfDirectory(atPath: "/proc")) ?? [] {
            guard let process = Int32(name) else { continue }
            let folder = "/proc/\(process)/fd"
            for descriptor in (try? files.contentsOfDirectory(atPath: folder)) ?? [] {
                guard (try? files.destinationOfSymbolicLink(atPath: "\(folder)/\(descriptor)")) == wanted else {
                    continue
                }
                let command = (try? String(contentsOfFile: "/proc/\(process)/comm", encoding: .utf8)) ?? "?"
                return "process \(process) (\(command.filter { !$0.isNewline }))"
            }
        }
        return nil
    }
}

/// Tries UDP port 4791 of one address, as the software device would bind it.
enum PortProbe {
    static let port: UInt16 = 4791

    static func state(of address: String, sockets: UDPSocketTable) -> DoctorFacts.PortState {
        switch bind(address, shared: false) {
        case 0: return .free
        case EADDRINUSE:
            if bind(address, shared: true) == 0 { return .shared }
            return .taken(owner: sockets.owner(ofPort: Int(port)))
        case let code: return .unusable(reason: unsafe String(cString: strerror(code)))
        }
    }

    static func dotted(_ address: UInt32) -> String {
        stride(from: 24, through: 0, by: -8).map { "\(address >> UInt32($0) & 0xFF)" }.joined(separator: ".")
    }

    /// The error of a bind that is undone at once, 0 for none.
    private static func bind(_ address: String, shared: Bool) -> Int32 {
        let isIPv6 = address.contains(":")
        let descriptor = socket(
            isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { return errno }
        defer { close(descriptor) }
        if shared {
            var on: Int32 = 1
            // A local variable, read during the call.
            _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEPORT, &on, socklen_t(MemoryLayout<Int32>.size))
        }
        // Local structures, read during the calls.
        if isIPv6 {
            var name = sockaddr_in6()
            name.sin6_family = sa_family_t(AF_INET6)
            name.sin6_port = port.bigEndian
            guard unsafe inet_pton(AF_INET6, address, &name.sin6_addr) == 1 else { return EINVAL }
            return unsafe withUnsafeBytes(of: &name) { unsafe bound(descriptor, $0) }
        }
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = port.bigEndian
        guard unsafe inet_pton(AF_INET, address, &name.sin_addr) == 1 else { return EINVAL }
        return unsafe withUnsafeBytes(of: &name) { unsafe bound(descriptor, $0) }
    }

    private static func bound(_ descriptor: Int32, _ name: UnsafeRawBufferPointer) -> Int32 {
        let result = unsafe Glibc.bind(
            descriptor, name.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(name.count))
        return result == 0 ? 0 : errno
    }
}
