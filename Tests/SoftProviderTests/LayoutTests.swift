// SPDX-License-Identifier: Apache-2.0
import Testing
import VerbsABI

@testable import RoCETransport
@testable import SoftProvider

@Suite("The engine's values have the layout and the numbers of verbs.h")
struct LayoutTests {
    @Test("A completion entry is an ibv_wc, so that a poll is a copy")
    func completionEntry() {
        #expect(MemoryLayout<CompletionEntry>.size <= MemoryLayout<ibv_wc>.size)
        #expect(MemoryLayout<CompletionEntry>.stride == MemoryLayout<ibv_wc>.stride)
        var entry = CompletionEntry(id: 0x0102_0304_0506_0708, status: .remoteAccessError, operation: .receive, qpn: 9)
        entry.vendorError = 10
        entry.byteLength = 11
        entry.immediate = 12
        entry.sourceQPN = 13
        entry.flags = [.grh, .withImmediate]
        entry.pkeyIndex = 14
        entry.sourceLID = 15
        entry.serviceLevel = 2
        entry.destinationPathBits = 17
        withUnsafeBytes(of: entry) { bytes in
            let completion = bytes.baseAddress!.assumingMemoryBound(to: ibv_wc.self).pointee
            #expect(completion.wr_id == 0x0102_0304_0506_0708)
            #expect(completion.status == .IBV_WC_REM_ACCESS_ERR)
            #expect(completion.opcode == .IBV_WC_RECV)
            #expect(completion.vendor_err == 10)
            #expect(completion.byte_len == 11)
            #expect(completion.imm_data == 12)
            #expect(completion.qp_num == 9)
            #expect(completion.src_qp == 13)
            #expect(completion.wc_flags == UInt32(ibv_wc_flags([.IBV_WC_GRH, .IBV_WC_WITH_IMM]).rawValue))
            #expect(completion.pkey_index == 14)
            #expect(completion.slid == 15)
            #expect(completion.sl == 2)
            #expect(completion.dlid_path_bits == 17)
        }
    }

    @Test("Statuses have the numbers of ibv_wc_status")
    func statuses() {
        let pairs: [(CompletionStatus, ibv_wc_status)] = [
            (.success, .IBV_WC_SUCCESS), (.localLengthError, .IBV_WC_LOC_LEN_ERR),
            (.localQueuePairOperationError, .IBV_WC_LOC_QP_OP_ERR), (.localProtectionError, .IBV_WC_LOC_PROT_ERR),
            (.flushed, .IBV_WC_WR_FLUSH_ERR), (.windowBindError, .IBV_WC_MW_BIND_ERR),
            (.badResponseError, .IBV_WC_BAD_RESP_ERR), (.localAccessError, .IBV_WC_LOC_ACCESS_ERR),
            (.remoteInvalidRequestError, .IBV_WC_REM_INV_REQ_ERR), (.remoteAccessError, .IBV_WC_REM_ACCESS_ERR),
            (.remoteOperationError, .IBV_WC_REM_OP_ERR), (.retriesExceeded, .IBV_WC_RETRY_EXC_ERR),
            (.receiverNotReadyRetriesExceeded, .IBV_WC_RNR_RETRY_EXC_ERR),
        ]
        for (ours, theirs) in pairs { #expect(ours.rawValue == UInt32(theirs.rawValue)) }
    }

    @Test("Operations have the numbers of ibv_wr_opcode and ibv_wc_opcode")
    func operations() {
        let requests: [(SendOperation, ibv_wr_opcode)] = [
            (.rdmaWrite, .IBV_WR_RDMA_WRITE), (.rdmaWriteWithImmediate, .IBV_WR_RDMA_WRITE_WITH_IMM),
            (.send, .IBV_WR_SEND), (.sendWithImmediate, .IBV_WR_SEND_WITH_IMM), (.rdmaRead, .IBV_WR_RDMA_READ),
            (.compareAndSwap, .IBV_WR_ATOMIC_CMP_AND_SWP), (.fetchAndAdd, .IBV_WR_ATOMIC_FETCH_AND_ADD),
            (.localInvalidate, .IBV_WR_LOCAL_INV), (.bindWindow, .IBV_WR_BIND_MW),
            (.sendWithInvalidate, .IBV_WR_SEND_WITH_INV), (.atomicWrite, .IBV_WR_ATOMIC_WRITE),
            (.flush, cverbs_wr_flush),
        ]
        for (ours, theirs) in requests { #expect(UInt32(ours.rawValue) == UInt32(theirs.rawValue)) }
        let completions: [(CompletionOperation, ibv_wc_opcode)] = [
            (.send, .IBV_WC_SEND), (.rdmaWrite, .IBV_WC_RDMA_WRITE), (.rdmaRead, .IBV_WC_RDMA_READ),
            (.compareAndSwap, .IBV_WC_COMP_SWAP), (.fetchAndAdd, .IBV_WC_FETCH_ADD), (.bindWindow, .IBV_WC_BIND_MW),
            (.localInvalidate, .IBV_WC_LOCAL_INV), (.receive, .IBV_WC_RECV),
            (.receiveRDMAWithImmediate, .IBV_WC_RECV_RDMA_WITH_IMM), (.atomicWrite, .IBV_WC_ATOMIC_WRITE),
            (.flush, cverbs_wc_flush),
        ]
        for (ours, theirs) in completions { #expect(ours.rawValue == UInt32(theirs.rawValue)) }
    }

    @Test("Flags and masks have the bits of verbs.h")
    func flags() {
        #expect(UInt32(SendFlags.fence.rawValue) == UInt32(ibv_send_flags.IBV_SEND_FENCE.rawValue))
        #expect(UInt32(SendFlags.signaled.rawValue) == UInt32(ibv_send_flags.IBV_SEND_SIGNALED.rawValue))
        #expect(UInt32(SendFlags.solicited.rawValue) == UInt32(ibv_send_flags.IBV_SEND_SOLICITED.rawValue))
        #expect(UInt32(SendFlags.inline.rawValue) == UInt32(ibv_send_flags.IBV_SEND_INLINE.rawValue))
        let access: [(AccessFlags, ibv_access_flags)] = [
            (.localWrite, .IBV_ACCESS_LOCAL_WRITE), (.remoteWrite, .IBV_ACCESS_REMOTE_WRITE),
            (.remoteRead, .IBV_ACCESS_REMOTE_READ), (.remoteAtomic, .IBV_ACCESS_REMOTE_ATOMIC),
            (.windowBind, .IBV_ACCESS_MW_BIND), (.zeroBased, .IBV_ACCESS_ZERO_BASED),
        ]
        for (ours, theirs) in access { #expect(ours.rawValue == UInt32(theirs.rawValue)) }
        #expect(AccessFlags.flushGlobal.rawValue == cverbs_access_flush_global)
        #expect(AccessFlags.flushPersistent.rawValue == cverbs_access_flush_persistent)
        let masks: [(QueuePairAttributeMask, ibv_qp_attr_mask)] = [
            (.state, .IBV_QP_STATE), (.accessFlags, .IBV_QP_ACCESS_FLAGS), (.qkey, .IBV_QP_QKEY),
            (.addressVector, .IBV_QP_AV), (.pathMTU, .IBV_QP_PATH_MTU), (.timeout, .IBV_QP_TIMEOUT),
            (.receivePSN, .IBV_QP_RQ_PSN), (.sendPSN, .IBV_QP_SQ_PSN), (.destinationQPN, .IBV_QP_DEST_QPN),
            (.rnrTimerMin, .IBV_QP_MIN_RNR_TIMER), (.readAtomicMax, .IBV_QP_MAX_QP_RD_ATOMIC),
            (.destinationReadAtomicMax, .IBV_QP_MAX_DEST_RD_ATOMIC),
        ]
        for (ours, theirs) in masks { #expect(ours.rawValue == UInt32(theirs.rawValue)) }
    }

    @Test("Events have the numbers of ibv_event_type")
    func events() {
        let pairs: [(QueuePairEvent, ibv_event_type)] = [
            (.fatal, .IBV_EVENT_QP_FATAL), (.requestError, .IBV_EVENT_QP_REQ_ERR),
            (.accessError, .IBV_EVENT_QP_ACCESS_ERR), (.communicationEstablished, .IBV_EVENT_COMM_EST),
            (.sendQueueDrained, .IBV_EVENT_SQ_DRAINED), (.lastReceiveReached, .IBV_EVENT_QP_LAST_WQE_REACHED),
        ]
        for (ours, theirs) in pairs { #expect(UInt32(ours.rawValue) == UInt32(theirs.rawValue)) }
    }
}
