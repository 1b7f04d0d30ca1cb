// SPDX-License-Identifier: Apache-2.0
import Glibc
import Testing
import VerbsABI

@testable import Verbs

@Suite("A failed call is explained") struct DiagnosisTests {
    static var device: DeviceAttributes {
        var native = ibv_device_attr_ex()
        native.orig_attr.max_mr_size = 1 << 40
        native.orig_attr.max_qp = 100
        native.orig_attr.max_qp_wr = 1024
        native.orig_attr.max_sge = 32
        native.orig_attr.max_cqe = 4096
        native.orig_attr.max_qp_rd_atom = 16
        native.orig_attr.max_qp_init_rd_atom = 8
        native.orig_attr.phys_port_cnt = 1
        return DeviceAttributes(native)
    }

    static func registration(
        _ code: Int32, length: Int = 1 << 20, access: AccessFlags = .localWrite, limit: UInt64? = 64 << 10,
        pinned: UInt64 = 4096, isExempt: Bool = false
    ) -> VerbsError {
        Diagnosis.registration(
            ProviderError("ibv_reg_mr", code: code), length: length, access: access, device: device,
            locked: .init(limit: limit, pinned: pinned, isExempt: isExempt))
    }

    @Test("as the locked-memory limit: what it is, what was asked, how to raise it")
    func lockedMemory() {
        let error = Self.registration(ENOMEM)
        #expect(error.cause == .lockedMemoryLimit)
        #expect(error.subject == "RLIMIT_MEMLOCK")
        #expect(error.limit == "64 KiB")
        #expect(error.value == "1 MiB beside 4 KiB pinned already")
        for way in ["ulimit -l unlimited", "LimitMEMLOCK=infinity", "/etc/security/limits.conf", "--ulimit memlock=-1"]
        {
            #expect(error.remedy.contains(way), "\(way)")
        }
        #expect(
            error.description.hasPrefix(
                "ibv_reg_mr: RLIMIT_MEMLOCK: asked 1 MiB beside 4 KiB pinned already, limit 64 KiB (ENOMEM"))
    }

    @Test("not as the locked-memory limit where there is none, or it would have been kept")
    func otherMemory() {
        #expect(Self.registration(ENOMEM, limit: nil).cause == .outOfMemory)
        #expect(Self.registration(ENOMEM, isExempt: true).cause == .outOfMemory)
        #expect(Self.registration(ENOMEM, limit: 4 << 20).cause == .outOfMemory)
        #expect(Self.registration(ENOMEM, length: 60 << 10).cause == .outOfMemory)
        #expect(Self.registration(ENOMEM, length: 60 << 10, pinned: 5 << 10).cause == .lockedMemoryLimit)
    }

    @Test("as the length of a region, its access, or its pages")
    func registrations() {
        let tooLong = Self.registration(EINVAL, length: 1 << 41)
        #expect(tooLong.cause == .deviceLimit && tooLong.subject == "max_mr_size" && tooLong.limit == "1024 GiB")
        #expect(Self.registration(EINVAL, access: .remoteWrite).subject == "access")
        #expect(Self.registration(EOPNOTSUPP, access: [.localWrite, .onDemand]).cause == .unsupported)
        let global = Self.registration(EINVAL, access: [.localWrite, .flushGlobal])
        #expect(global.cause == .unsupported && global.subject == "IBV_ACCESS_FLUSH_GLOBAL")
        let persistent = Self.registration(EOPNOTSUPP, access: [.flushGlobal, .flushPersistent])
        #expect(persistent.cause == .unsupported && persistent.subject == "IBV_ACCESS_FLUSH_PERSISTENT")
        #expect(Self.registration(EFAULT).subject == "address range")
    }

    @Test("as the depth, the elements, the inline bytes or the number of queue pairs")
    func queuePairs() {
        func error(_ options: QueuePairOptions, _ code: Int32) -> VerbsError {
            Diagnosis.queuePair(ProviderError("ibv_create_qp", code: code), options: options, device: Self.device)
        }
        for code in [ENOMEM, EINVAL] {
            let deep = error(QueuePairOptions(sendDepth: 1025), code)
            #expect(deep.cause == .deviceLimit && deep.subject == "max_send_wr" && deep.limit == "1024")
            let wide = error(QueuePairOptions(receiveElements: 33), code)
            #expect(wide.cause == .tooManyElements && wide.subject == "max_recv_sge" && wide.value == "33")
            #expect(error(QueuePairOptions(maxInline: 900), code).subject == "max_inline_data")
        }
        let many = error(QueuePairOptions(), ENOMEM)
        #expect(many.cause == .deviceLimit && many.subject == "max_qp" && many.limit?.contains("100") == true)
        #expect(error(QueuePairOptions(), EPERM).cause == .permission)
    }

    @Test("as the depth of a completion queue")
    func completionQueues() {
        let error = Diagnosis.completionQueue(
            ProviderError("ibv_create_cq", code: EINVAL), capacity: 5000, device: Self.device)
        #expect(
            error.cause == .deviceLimit && error.subject == "max_cqe" && error.value == "5000" && error.limit == "4096")
    }

    @Test("as the attribute of a transition whose value cannot be")
    func values() {
        func subject(_ code: Int32 = EINVAL, _ change: (inout QueuePairAttributes) -> Void) -> String? {
            var attributes = QueuePairAttributes(state: .readyToSend)
            attributes.timeout = 14
            attributes.retryCount = 7
            attributes.rnrRetry = 7
            attributes.sendPSN = 0
            attributes.maxReads = 1
            change(&attributes)
            return Diagnosis.transition(
                ProviderError("ibv_modify_qp", code: code), transport: .reliableConnected, from: .readyToReceive,
                attributes: attributes, port: nil, device: Self.device
            ).subject
        }
        #expect(subject { $0.timeout = 32 } == "TIMEOUT")
        #expect(subject { $0.retryCount = 8 } == "RETRY_CNT")
        #expect(subject { $0.rnrRetry = 8 } == "RNR_RETRY")
        #expect(subject { $0.sendPSN = 0x100_0000 } == "SQ_PSN")
        #expect(subject { $0.maxReads = 9 } == "MAX_QP_RD_ATOMIC")
        #expect(subject { $0.minRNRTimer = 32 } == "MIN_RNR_TIMER")
        #expect(subject { _ in } == nil)
    }

    @Test("as the address that cannot be reached")
    func unreachable() {
        var attributes = QueuePairAttributes(state: .readyToReceive)
        attributes.path = PathAttributes(gid: GID("10.0.0.9"), sourceGIDIndex: 3)
        attributes.pathMTU = .bytes1024
        attributes.destination = 1
        attributes.receivePSN = 0
        let error = Diagnosis.transition(
            ProviderError("ibv_modify_qp", code: ETIMEDOUT), transport: .unreliableConnected, from: .initialized,
            attributes: attributes, port: nil, device: nil)
        #expect(error.cause == .unreachable)
        #expect(error.value == "GID ::ffff:10.0.0.9 from GID index 3")
    }

    @Test("with the pinned memory and the capabilities of /proc/self/status")
    func processStatus() {
        let text = "Name:\tx\nVmPin:\t      64 kB\nCapEff:\t0000000000004000\n"
        let status = ProcessStatus(parsing: text)
        #expect(status.pinnedBytes == 65536)
        #expect(status.effectiveCapabilities >> 14 & 1 == 1)
        #expect(ProcessStatus(parsing: "") == ProcessStatus(parsing: "VmPin:\nCapEff: xyz\n"))
        #expect(ProcessStatus.current().effectiveCapabilities == ProcessStatus.current().effectiveCapabilities)
    }

    @Test("in words that keep unknown codes")
    func unknownCodes() {
        #expect(WorkStatus(rawValue: 999).description == "status 999")
        #expect(WorkOpcode(rawValue: 77).description == "opcode 77")
        #expect(WorkStatus.retryExceeded.remedy.contains("does not answer"))
        #expect(AsynchronousEvent.Kind(rawValue: 99).description == "event 99")
        #expect(AsynchronousEvent.Kind.sharedReceiveQueueLimit.description == "SRQ_LIMIT_REACHED")
        #expect(QueuePairState(rawValue: 42).description.contains("UNKNOWN"))
        #expect(PostError(code: EINVAL).description.hasPrefix("EINVAL"))
        #expect(VerbsError(ProviderError("ibv_x", code: 12345)).description.contains("errno 12345"))
    }
}
