// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// Turns the error numbers of control calls into what they were about.
///
/// ENOMEM means four things and EINVAL twenty; each function here asks, in the order of likelihood, which of them the
/// arguments, limits and states at hand explain. All are pure: what they compare comes in as arguments.
enum Diagnosis {
    /// The locked-memory account of this process.
    struct LockedMemory: Equatable {
        /// RLIMIT_MEMLOCK in bytes, `nil` when unlimited.
        var limit: UInt64?
        /// What is pinned already, in bytes (`VmPin` of /proc/self/status, which is what the kernel compares).
        var pinned: UInt64
        /// CAP_IPC_LOCK lifts the limit.
        var isExempt: Bool
    }

    /// Why a registration failed.
    static func registration(
        _ error: ProviderError, length: Int, access: AccessFlags, device: DeviceAttributes?, locked: LockedMemory
    ) -> VerbsError {
        let verb = error.function.description
        if let device, UInt64(length) > device.maxRegionLength {
            return VerbsError(
                .deviceLimit, verb: verb, code: error.code, subject: "max_mr_size", value: bytes(UInt64(length)),
                limit: bytes(device.maxRegionLength), remedy: "Register the memory in several regions.")
        }
        if error.code == ENOMEM, let limit = locked.limit, !locked.isExempt {
            let asked = UInt64(length)
            if locked.pinned &+ asked > limit {
                return VerbsError(
                    .lockedMemoryLimit, verb: verb, code: error.code, subject: "RLIMIT_MEMLOCK",
                    value: "\(bytes(asked)) beside \(bytes(locked.pinned)) pinned already", limit: bytes(limit),
                    remedy: """
                        Raise it with `ulimit -l unlimited` in the shell, `LimitMEMLOCK=infinity` in a systemd unit, \
                        a line `* - memlock unlimited` in /etc/security/limits.conf, or `--ulimit memlock=-1` for a \
                        container
                        """)
            }
        }
        if error.code == EINVAL, !access.isDisjoint(with: [.remoteWrite, .remoteAtomic]), !access.contains(.localWrite)
        {
            return VerbsError(
                .invalidAttribute, verb: verb, code: error.code, subject: "access",
                value: "remote write or atomic without local write",
                remedy: "Add .localWrite: the device writes on the peer's behalf")
        }
        if error.code == EOPNOTSUPP || error.code == EINVAL, access.contains(.onDemand) {
            return VerbsError(
                .unsupported, verb: verb, code: error.code, subject: "IBV_ACCESS_ON_DEMAND",
                remedy: "The device has no on-demand paging for this; register without .onDemand")
        }
        let flush = access.intersection([.flushGlobal, .flushPersistent])
        if error.code == EOPNOTSUPP || error.code == EINVAL, !flush.isEmpty {
            return VerbsError(
                .unsupported, verb: verb, code: error.code,
                subject: flush == .flushGlobal ? "IBV_ACCESS_FLUSH_GLOBAL" : "IBV_ACCESS_FLUSH_PERSISTENT",
                remedy: flush == .flushGlobal
                    ? "The device or its kernel has no FLUSH (rxe has it since Linux 6.2); register without .flushGlobal"
                    : "The memory is not known to survive a loss of power; register it with .flushGlobal")
        }
        if error.code == EFAULT {
            return VerbsError(
                .invalidAttribute, verb: verb, code: error.code, subject: "address range", value: bytes(UInt64(length)),
                remedy: "A page of the range is not mapped, or is read-only and the region is not")
        }
        return VerbsError(error)
    }

    /// Why a flow could not be created.
    static func flow(_ error: ProviderError, transport: Transport) -> VerbsError {
        let verb = error.function.description
        if transport != .rawPacket {
            return VerbsError(
                .invalidAttribute, verb: verb, code: error.code, subject: "transport", value: "\(transport)",
                limit: "RAW_PACKET", remedy: "Make the queue pair with makeQueuePair(.rawPacket, ...)")
        }
        let (cause, remedy): (VerbsError.Cause, String) =
            switch error.code {
            case EPERM, EACCES:
                (.permission, "Give the program CAP_NET_RAW (setcap cap_net_raw+ep), or run it as root")
            case EOPNOTSUPP, ENOTSUP, ENOSYS:
                (.unsupported, "Allow more places, or ask for less in the rule: each place says what it lacks")
            case EBUSY: (.busy, "Use the same mode, or detach the other flows first")
            case EINVAL: (.invalidAttribute, "Correct the rule")
            default: (.system, "`verbs steer` lists what the interface can do")
            }
        return VerbsError(cause, verb: verb, code: error.code, subject: error.detail, remedy: remedy)
    }

    /// Why a queue pair could not be made.
    static func queuePair(
        _ error: ProviderError, options: QueuePairOptions, device: DeviceAttributes?
    ) -> VerbsError {
        let verb = error.function.description
        if let device, error.code == ENOMEM || error.code == EINVAL {
            let asked: [(String, Int, Int, VerbsError.Cause)] = [
                ("max_send_wr", options.sendDepth, device.maxQueuePairDepth, .deviceLimit),
                ("max_recv_wr", options.receiveDepth, device.maxQueuePairDepth, .deviceLimit),
                ("max_send_sge", options.sendElements, device.maxElements, .tooManyElements),
                ("max_recv_sge", options.receiveElements, device.maxElements, .tooManyElements),
            ]
            for (name, value, limit, cause) in asked where value > limit {
                return VerbsError(
                    cause, verb: verb, code: error.code, subject: name, value: "\(value)", limit: "\(limit)",
                    remedy: "Ask for at most \(limit)")
            }
            if options.maxInline > 0 {
                return VerbsError(
                    .deviceLimit, verb: verb, code: error.code, subject: error.detail ?? "max_inline_data",
                    value: "\(bytes(UInt64(options.maxInline))) inline",
                    remedy: "Devices do not tell their limit for inline data (often 60 to 1000 bytes): ask for less")
            }
            if error.code == ENOMEM {
                return VerbsError(
                    .deviceLimit, verb: verb, code: error.code, subject: error.detail ?? "max_qp",
                    limit: "\(device.maxQueuePairs) of the device, for all processes",
                    remedy: "Release queue pairs, or ask for shallower ones (locked memory may be short as well)")
            }
        }
        return VerbsError(error)
    }

    /// Why a completion queue could not be made or resized.
    static func completionQueue(_ error: ProviderError, capacity: Int, device: DeviceAttributes?) -> VerbsError {
        if let device, capacity > device.maxCompletionQueueCapacity {
            return VerbsError(
                .deviceLimit, verb: error.function.description, code: error.code, subject: "max_cqe",
                value: "\(capacity)", limit: "\(device.maxCompletionQueueCapacity)",
                remedy:
                    "Ask for at most \(device.maxCompletionQueueCapacity), or spread the queue pairs over more queues")
        }
        return VerbsError(error)
    }

    /// Why a state change failed, from the transition table first and the values second.
    static func transition(
        _ error: ProviderError, transport: Transport, from: QueuePairState, attributes: QueuePairAttributes,
        port: PortAttributes?, device: DeviceAttributes?
    ) -> VerbsError {
        let verb = error.function.description
        let target = attributes.state ?? from
        let step = "\(transport) \(from) to \(target)"
        let mask = attributes.native.mask
        switch QueuePairTransition.verdict(transport.native, from: from.native, to: target.native, mask: mask) {
        case .noSuchTransition:
            return VerbsError(
                .invalidTransition, verb: verb, code: error.code, subject: "STATE", value: step,
                remedy: "The order is RESET, INIT, RTR, RTS; any state goes to RESET, any but RESET to ERR")
        case .missing(let missing):
            let names = QueuePairTransition.names(missing).joined(separator: ", ")
            return VerbsError(
                .missingAttribute, verb: verb, code: error.code, subject: names, value: step,
                remedy: "Give \(names) with this transition")
        case .refused(let refused):
            let names = QueuePairTransition.names(refused).joined(separator: ", ")
            return VerbsError(
                .invalidAttribute, verb: verb, code: error.code, subject: names, value: step,
                remedy: "Leave \(names) out: this transition does not take it")
        case .allowed: break
        }
        if let value = badValue(attributes, transport: transport, port: port, device: device) {
            return VerbsError(
                .invalidAttribute, verb: verb, code: error.code, subject: value.name, value: value.value,
                limit: value.limit, remedy: "Give a value within the limit")
        }
        if let path = attributes.path {
            let unreachable = [ETIMEDOUT, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL].contains(error.code)
            if unreachable || error.code == EINVAL || error.code == ENODEV {
                return VerbsError(
                    unreachable ? .unreachable : .invalidAttribute, verb: verb, code: error.code, subject: "AV",
                    value: "\(path.gid.map { "GID \($0)" } ?? "LID \(path.lid)") from GID index \(path.sourceGIDIndex)",
                    remedy: """
                        Check that the index names a GID of the peer's family and kind (`verbs info` lists them) and \
                        that the address has a route
                        """)
            }
        }
        return VerbsError(error)
    }

    /// The first attribute whose value cannot be, by the specification or by what port and device say.
    static func badValue(
        _ attributes: QueuePairAttributes, transport: Transport, port: PortAttributes?, device: DeviceAttributes?
    ) -> (name: String, value: String, limit: String)? {
        if let mtu = attributes.pathMTU, let port, mtu > port.activeMTU {
            return ("PATH_MTU", "\(mtu.byteCount)", "\(port.activeMTU.byteCount) (active MTU of the port)")
        }
        if let path = attributes.path, path.gid != nil, let port, Int(path.sourceGIDIndex) >= port.gidTableLength {
            return ("AV", "GID index \(path.sourceGIDIndex)", "\(port.gidTableLength - 1)")
        }
        let limits: [(name: String, value: Int?, limit: Int?)] = [
            ("DEST_QPN", attributes.destination.map { Int($0) }, 0xFF_FFFF),
            ("RQ_PSN", attributes.receivePSN.map { Int($0) }, 0xFF_FFFF),
            ("SQ_PSN", attributes.sendPSN.map { Int($0) }, 0xFF_FFFF),
            ("MAX_QP_RD_ATOMIC", attributes.maxReads.map { Int($0) }, device?.maxReadsAsInitiator),
            ("MAX_DEST_RD_ATOMIC", attributes.maxDestinationReads.map { Int($0) }, device?.maxReadsAsTarget),
            ("TIMEOUT", attributes.timeout.map { Int($0) }, 31),
            ("RETRY_CNT", attributes.retryCount.map { Int($0) }, 7),
            ("RNR_RETRY", attributes.rnrRetry.map { Int($0) }, 7),
            ("MIN_RNR_TIMER", attributes.minRNRTimer.map { Int($0) }, 31),
            ("PORT", attributes.port.map { Int($0) }, device?.portCount),
            ("PKEY_INDEX", attributes.pkeyIndex.map { Int($0) }, port.map { max(0, $0.pkeyTableLength - 1) }),
        ]
        for (name, value, limit) in limits {
            if let value, let limit, value > limit { return (name, "\(value)", "\(limit)") }
        }
        return nil
    }

    /// A byte count for people: exact powers get their unit.
    static func bytes(_ count: UInt64) -> String {
        for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] as [(String, UInt64)] {
            if count >= 1 << shift && count & (1 << shift - 1) == 0 { return "\(count >> shift) \(unit)" }
        }
        return "\(count) bytes"
    }
}

extension Diagnosis.LockedMemory {
    /// The account of this process as it stands.
    static func current() -> Diagnosis.LockedMemory {
        var limit = rlimit()
        // The C enumerator has a name that begins with two underscores, and a macro over it.
        let lockedMemory = __rlimit_resource_t(8)
        // A local variable, written during the call.
        let known = unsafe getrlimit(lockedMemory, &limit) == 0
        let status = ProcessStatus.current()
        return .init(
            limit: known && limit.rlim_cur != rlim_t.max ? UInt64(limit.rlim_cur) : nil,
            pinned: status.pinnedBytes, isExempt: status.effectiveCapabilities >> 14 & 1 == 1)
    }
}
