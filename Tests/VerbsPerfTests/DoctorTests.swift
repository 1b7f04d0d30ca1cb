// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import VerbsCommand

@Suite("The doctor's judgement")
struct DoctorTests {
    /// A machine on which nothing is amiss.
    private var healthy: DoctorFacts {
        var facts = DoctorFacts()
        facts.capabilities = .max
        facts.port = [("127.0.0.1", .free)]
        facts.modules = ["ib_core", "ib_uverbs", "rdma_rxe"]
        facts.deviceFiles = ["uverbs0"]
        facts.devices = [
            DoctorFacts.DeviceFacts(
                name: "rxe0", kind: "kernel software", isKernel: true, activePorts: 1, ports: 1,
                defaultGID: "::ffff:10.0.0.1")
        ]
        facts.receiveBufferMax = 16 << 20
        facts.sendBufferMax = 16 << 20
        facts.processors = 4
        return facts
    }

    private func finding(_ subject: String, _ change: (inout DoctorFacts) -> Void) -> Finding? {
        var facts = healthy
        change(&facts)
        return DoctorReport(facts).findings.first { $0.subject.hasPrefix(subject) }
    }

    @Test("A healthy machine has nothing but good findings")
    func allGood() {
        let report = DoctorReport(healthy)
        #expect(report.worst == .ok)
        #expect(report.exitStatus == 0)
    }

    @Test("No device at all is a failure with a remedy")
    func noDevice() {
        var facts = healthy
        facts.devices = []
        let report = DoctorReport(facts)
        #expect(report.exitStatus == 1)
        #expect(report.findings.first?.level == .failure)
        #expect(report.findings.first?.remedy.contains("ip link") == true)
    }

    @Test("A device without an active port, without a GID, or with a link-local one")
    func devices() {
        #expect(finding("device") { $0.devices[0].activePorts = 0 }?.level == .warning)
        #expect(finding("device") { $0.devices[0].defaultGID = nil }?.level == .failure)
        #expect(finding("device") { $0.devices[0].gidIsLinkLocal = true }?.level == .warning)
        #expect(finding("device") { $0.devices[0].failure = "EPERM" }?.level == .failure)
    }

    @Test("A small locked-memory limit matters to kernel devices, unless CAP_IPC_LOCK overrides it")
    func lockedMemory() {
        func finding(isKernel: Bool, capabilities: UInt64) -> Finding.Level? {
            self.finding("locked memory") {
                $0.lockedMemory = DoctorFacts.ResourceLimit(soft: 64 << 10, hard: 64 << 10)
                $0.devices[0].isKernel = isKernel
                $0.capabilities = capabilities
            }?.level
        }
        #expect(finding(isKernel: true, capabilities: 0) == .warning)
        #expect(finding(isKernel: true, capabilities: 1 << 14) == .ok)
        #expect(finding(isKernel: false, capabilities: 0) == .ok)
    }

    @Test("Port 4791: free, shared, the kernel's, another's")
    func port() {
        func level(_ state: DoctorFacts.PortState, rxe: Bool = false) -> Finding.Level? {
            finding("UDP port") {
                $0.port = [("127.0.0.1", state)]
                $0.modules = rxe ? ["rdma_rxe"] : []
            }?.level
        }
        #expect(level(.free) == .ok)
        #expect(level(.shared) == .ok)
        #expect(level(.taken(owner: nil), rxe: true) == .note)
        #expect(level(.taken(owner: "process 17 (iperf)")) == .warning)
        #expect(
            finding("UDP port") { $0.port = [("127.0.0.1", .taken(owner: "process 17 (iperf)"))] }?.text.contains(
                "iperf") == true)
    }

    @Test("Small buffers, few descriptors and one processor are told with what to do")
    func limits() {
        let buffers = finding("net.core.rmem_max") {
            $0.receiveBufferMax = 212_992
            $0.capabilities = 0
        }
        #expect(buffers?.level == .note)
        #expect(buffers?.remedy.contains("sysctl -w net.core.rmem_max=") == true)
        #expect(
            finding("open files") { $0.openFiles = DoctorFacts.ResourceLimit(soft: 64, hard: nil) }?.level == .warning)
        #expect(finding("processors") { $0.processors = 1 }?.level == .note)
        #expect(finding("capabilities") { $0.capabilities = 0 }?.text.contains("CAP_NET_RAW") == true)
    }

    @Test("ib_uverbs without its files is a container's trouble")
    func modules() {
        #expect(finding("kernel modules") { $0.deviceFiles = [] }?.level == .warning)
        #expect(finding("kernel modules") { $0.modules = [] }?.level == .note)
    }

    @Test("The files of /proc are read as the kernel writes them")
    func parsing() {
        let limits = """
            Limit                     Soft Limit           Hard Limit           Units
            Max open files            1024                 1048576              files
            Max locked memory         8388608              unlimited            bytes
            """
        #expect(DoctorFacts.ResourceLimit(named: "Max open files", in: limits) == .init(soft: 1024, hard: 1_048_576))
        #expect(DoctorFacts.ResourceLimit(named: "Max locked memory", in: limits) == .init(soft: 8_388_608, hard: nil))
        let sockets = """
              sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
             1183: 0100007F:12B7 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 83761 2 0000000000000000 0
            garbage
            """
        #expect(UDPSocketTable(parsing: sockets).entries == [.init(port: 4791, userID: 1000, inode: 83761)])
        #expect(UDPSocketTable(parsing: "").entries.isEmpty)
    }

    @Test("The report for people hides what is in order, unless asked")
    func text() {
        let report = DoctorReport(healthy)
        #expect(!report.text(verbose: false).contains("processors"))
        #expect(report.text(verbose: true).contains("processors"))
        #expect(report.text(verbose: false).contains("device rxe0"))
    }
}
