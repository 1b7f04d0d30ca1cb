// SPDX-License-Identifier: Apache-2.0

/// One thing that was checked.
struct Finding: Equatable, Sendable, Encodable {
    enum Level: String, Sendable, Encodable, Comparable, CaseIterable {
        case ok, note, warning, failure

        static func < (a: Level, b: Level) -> Bool {
            (allCases.firstIndex(of: a) ?? 0) < (allCases.firstIndex(of: b) ?? 0)
        }
    }

    var level: Level
    /// What was checked: `locked memory`, `port 4791`.
    var subject: String
    /// What is the case.
    var text: String
    /// What to do; empty where nothing needs doing.
    var remedy: String = ""
}

/// The judgement of ``DoctorFacts``.
struct DoctorReport: Equatable, Sendable {
    var findings: [Finding]

    init(_ facts: DoctorFacts) {
        findings =
            Self.devices(facts) + Self.kernel(facts) + [Self.lockedMemory(facts), Self.openFiles(facts)]
            + Self.port(facts) + Self.buffers(facts) + [Self.capabilities(facts), Self.processors(facts)]
    }

    var worst: Finding.Level { findings.map(\.level).max() ?? .ok }

    /// 0 if the machine can be used as it is, 1 if something prevents it.
    var exitStatus: Int32 { worst == .failure ? 1 : 0 }

    private static func devices(_ facts: DoctorFacts) -> [Finding] {
        guard !facts.devices.isEmpty else {
            return [
                Finding(
                    level: .failure, subject: "devices", text: "There is no device at all.",
                    remedy:
                        "Bring up a network interface that has an address (`ip link set lo up`); it gives a software device."
                )
            ]
        }
        return facts.devices.map { device in
            let subject = "device \(device.name)"
            if let failure = device.failure {
                return Finding(
                    level: .failure, subject: subject, text: "It cannot be opened: \(failure)",
                    remedy: "See the findings below; `verbs info -d \(device.name)` repeats the attempt.")
            }
            guard device.activePorts > 0 else {
                return Finding(
                    level: .warning, subject: subject, text: "None of its \(device.ports) ports is active.",
                    remedy: "Bring its network interface up: `ip link set IFACE up`; check the cable.")
            }
            guard let gid = device.defaultGID else {
                return Finding(
                    level: .failure, subject: subject, text: "Its GID table is empty, so nothing can reach it.",
                    remedy: "Give its network interface an address: `ip addr add 10.0.0.1/24 dev IFACE`.")
            }
            if device.gidIsLinkLocal {
                return Finding(
                    level: .warning, subject: subject, text: "Its best GID is link-local: \(gid).",
                    remedy: "Give its interface a routable address, or make sure that all peers are on the same link.")
            }
            return Finding(level: .ok, subject: subject, text: "\(device.kind), default GID \(gid).")
        }
    }

    private static func kernel(_ facts: DoctorFacts) -> [Finding] {
        var findings: [Finding] = []
        if let reason = facts.systemUnavailability {
            findings.append(
                Finding(
                    level: .note, subject: "kernel devices", text: "None: \(reason)",
                    remedy:
                        "Nothing to do for the software device. For hardware: `apt-get install libibverbs1 ibverbs-providers`."
                ))
        }
        if !facts.modules.contains("ib_uverbs") {
            findings.append(
                Finding(
                    level: .note, subject: "kernel modules",
                    text: "ib_uverbs is not loaded: the kernel offers no RDMA device.",
                    remedy: "Nothing to do for the software device. For hardware or rxe: `modprobe ib_uverbs`."))
        } else if facts.deviceFiles.isEmpty {
            findings.append(
                Finding(
                    level: .warning, subject: "kernel modules",
                    text: "ib_uverbs is loaded but there is no /dev/infiniband/uverbs*.",
                    remedy:
                        "In a container pass the files in (`--device=/dev/infiniband/uverbs0`); else add an rxe device: "
                        + "`rdma link add rxe0 type rxe netdev IFACE`."))
        } else {
            findings.append(
                Finding(
                    level: .ok, subject: "kernel modules",
                    text:
                        "\(facts.modules.sorted().joined(separator: ", ")); \(facts.deviceFiles.joined(separator: ", "))."
                ))
        }
        return findings
    }

    private static func lockedMemory(_ facts: DoctorFacts) -> Finding {
        let subject = "locked memory"
        let pins = facts.devices.contains { $0.isKernel }
        guard let soft = facts.lockedMemory.soft else {
            return Finding(level: .ok, subject: subject, text: "Unlimited.")
        }
        if Capability.ipcLock.isHeld(in: facts.capabilities) {
            return Finding(level: .ok, subject: subject, text: "Limit \(bytes(soft)), which CAP_IPC_LOCK overrides.")
        }
        let text =
            "Limit \(bytes(soft))"
            + (facts.lockedMemory.hard.map { ", may be raised to \(bytes($0))." } ?? ", may be raised without bound.")
        guard pins else {
            return Finding(level: .ok, subject: subject, text: text + " The software device pins nothing.")
        }
        // perftest's default queues over 64 KiB messages need about 10 MiB.
        guard soft < 64 << 20 else { return Finding(level: .ok, subject: subject, text: text) }
        return Finding(
            level: .warning, subject: subject,
            text: text + " Registering more memory on a kernel device fails with ENOMEM.",
            remedy: "`ulimit -l unlimited`, or in /etc/security/limits.d/rdma.conf: `* - memlock unlimited`; "
                + "containers: `--ulimit memlock=-1`; services: `LimitMEMLOCK=infinity`.")
    }

    private static func openFiles(_ facts: DoctorFacts) -> Finding {
        guard let soft = facts.openFiles.soft, soft < 256 else {
            return Finding(
                level: .ok, subject: "open files",
                text: facts.openFiles.soft.map { "Limit \($0)." } ?? "Unlimited.")
        }
        return Finding(
            level: .warning, subject: "open files",
            text: "Limit \(soft): completion channels and the software device's sockets need descriptors.",
            remedy: "`ulimit -n 1024`.")
    }

    private static func port(_ facts: DoctorFacts) -> [Finding] {
        facts.port.compactMap { entry in
            let subject = "UDP port 4791, \(entry.address)"
            switch entry.state {
            case .free: return Finding(level: .ok, subject: subject, text: "Free.")
            case .shared:
                return Finding(level: .ok, subject: subject, text: "Shared with other processes of this user.")
            case .taken(let owner) where facts.modules.contains("rdma_rxe") && owner == nil:
                return Finding(
                    level: .note, subject: subject,
                    text: "The kernel's rdma_rxe holds it; the software device cannot use this address.",
                    remedy: "Use the rxe device, or `rmmod rdma_rxe`, or run in a network namespace of its own.")
            case .taken(let owner):
                return Finding(
                    level: .warning, subject: subject, text: "Taken by \(owner ?? "a process of another user").",
                    remedy:
                        "The software device is served through that process if it is one of this package; else end it.")
            case .unusable(let reason):
                return Finding(level: .note, subject: subject, text: "Cannot be bound: \(reason).")
            }
        }
    }

    private static func buffers(_ facts: DoctorFacts) -> [Finding] {
        // The software device sizes its flight by the receive buffer it is granted.
        let wanted = 4 << 20
        if Capability.netAdmin.isHeld(in: facts.capabilities) {
            return [Finding(level: .ok, subject: "socket buffers", text: "CAP_NET_ADMIN overrides the limits.")]
        }
        return [("net.core.rmem_max", facts.receiveBufferMax), ("net.core.wmem_max", facts.sendBufferMax)].compactMap {
            name, value in
            guard let value else { return nil }
            if value >= wanted { return Finding(level: .ok, subject: name, text: "\(bytes(UInt64(value))).") }
            return Finding(
                level: .note, subject: name,
                text: "\(bytes(UInt64(value))): bulk transfers of the software device are slower than they could be.",
                remedy: "`sysctl -w \(name)=\(16 << 20)`.")
        }
    }

    private static func capabilities(_ facts: DoctorFacts) -> Finding {
        let missing = Capability.allCases.filter { !$0.isHeld(in: facts.capabilities) }
        guard !missing.isEmpty else {
            return Finding(level: .ok, subject: "capabilities", text: "All that can be used.")
        }
        return Finding(
            level: .note, subject: "capabilities",
            text: "Not held: " + missing.map { "\($0.name) (\($0.use))" }.joined(separator: "; ") + ".",
            remedy: "None is needed for RC, UC and UD. To have one: `setcap cap_net_raw+ep verbs`, or run as root.")
    }

    private static func processors(_ facts: DoctorFacts) -> Finding {
        guard facts.processors < 2 else {
            return Finding(
                level: .ok, subject: "processors", text: "\(facts.processors); Linux \(facts.kernelRelease).")
        }
        return Finding(
            level: .note, subject: "processors",
            text: "1; Linux \(facts.kernelRelease). Two polling ends take turns on it.",
            remedy:
                "Latency figures with both ends here are those of the scheduler: give the machine a second processor.")
    }

    private static func bytes(_ count: UInt64) -> String {
        for (unit, shift) in [("GiB", UInt64(30)), ("MiB", 20), ("KiB", 10)] where count >= 1 << shift {
            return count % (1 << shift) == 0 ? "\(count >> shift) \(unit)" : "\(count) bytes"
        }
        return "\(count) bytes"
    }
}
