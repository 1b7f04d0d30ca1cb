// SPDX-License-Identifier: Apache-2.0

/// What `verbs doctor` looked at, as plain values: the judgement in ``DoctorReport`` is a pure function of them.
struct DoctorFacts: Equatable, Sendable {
    /// A limit of the process, `nil` for unlimited.
    struct ResourceLimit: Equatable, Sendable {
        var soft: UInt64?
        var hard: UInt64?
    }

    /// The state of one address's UDP port 4791.
    enum PortState: Equatable, Sendable {
        case free
        /// Bound with SO_REUSEPORT by processes of this user: it can be shared.
        case shared
        /// Taken, with what is known about the owner.
        case taken(owner: String?)
        /// The address cannot be used at all.
        case unusable(reason: String)
    }

    struct DeviceFacts: Equatable, Sendable {
        var name: String
        var kind: String
        /// Whether it is the kernel's: then its memory is pinned and counts against the limit.
        var isKernel: Bool
        var activePorts: Int
        var ports: Int
        /// The default GID and the reason for it, `nil` where no port has one.
        var defaultGID: String?
        var gidIsLinkLocal = false
        /// Why it could not be opened.
        var failure: String?
    }

    var lockedMemory = ResourceLimit()
    var openFiles = ResourceLimit()
    /// `CapEff`: one bit a capability.
    var capabilities: UInt64 = 0
    /// Local addresses and what holds their port 4791.
    var port: [(address: String, state: PortState)] = []
    /// Modules that are loaded, of those that matter.
    var modules: Set<String> = []
    /// Whether the kernel's module files are there at all (not in most containers).
    var deviceFiles: [String] = []
    /// Why the kernel's devices cannot be used, as the library says it.
    var systemUnavailability: String?
    var devices: [DeviceFacts] = []
    /// `net.core.rmem_max`, `net.core.wmem_max` in bytes.
    var receiveBufferMax: Int?
    var sendBufferMax: Int?
    var processors = 1
    var kernelRelease = ""

    static func == (a: DoctorFacts, b: DoctorFacts) -> Bool {
        a.lockedMemory == b.lockedMemory && a.openFiles == b.openFiles && a.capabilities == b.capabilities
            && a.port.map(\.address) == b.port.map(\.address) && a.port.map(\.state) == b.port.map(\.state)
            && a.modules == b.modules && a.deviceFiles == b.deviceFiles && a.devices == b.devices
            && a.receiveBufferMax == b.receiveBufferMax && a.sendBufferMax == b.sendBufferMax
            && a.processors == b.processors && a.kernelRelease == b.kernelRelease
            && a.systemUnavailability == b.systemUnavailability
    }
}

/// The capabilities that something in this package can use, by their bit in `CapEff`.
enum Capability: Int, CaseIterable {
    case netAdmin = 12
    case netRaw = 13
    case ipcLock = 14
    case bpf = 39

    var name: String {
        switch self {
        case .netAdmin: "CAP_NET_ADMIN"
        case .netRaw: "CAP_NET_RAW"
        case .ipcLock: "CAP_IPC_LOCK"
        case .bpf: "CAP_BPF"
        }
    }

    var use: String {
        switch self {
        case .netAdmin: "socket buffers beyond the sysctl limits, flow rules in the network adapter"
        case .netRaw: "raw packet queue pairs"
        case .ipcLock: "pinning memory beyond the limit"
        case .bpf: "flow rules in XDP"
        }
    }

    func isHeld(in set: UInt64) -> Bool { set & 1 << UInt64(rawValue) != 0 }
}
