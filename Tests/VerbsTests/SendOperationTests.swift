// SPDX-License-Identifier: Apache-2.0
import CVerbsABI
import Testing

@testable import Verbs

@Suite("A send operation") struct SendOperationTests {
    let remote = RemoteMemory(address: 0x1122_3344_5566_7788, rkey: 0xAABB_CCDD, length: 8)

    func store(_ operation: SendOperation) -> ibv_send_wr {
        var request = ibv_send_wr()
        operation.store(in: &request)
        return request
    }

    @Test("stores the fields of struct ibv_send_wr, immediate data in network order")
    func fields() {
        #expect(store(.send).opcode == .IBV_WR_SEND)
        let immediate = store(.sendWithImmediate(0x0102_0304))
        #expect(immediate.opcode == .IBV_WR_SEND_WITH_IMM)
        #expect(immediate.imm_data == UInt32(0x0102_0304).bigEndian)
        let invalidate = store(.sendWithInvalidate(rkey: 0x0102_0304))
        #expect(invalidate.opcode == .IBV_WR_SEND_WITH_INV)
        #expect(invalidate.invalidate_rkey == 0x0102_0304)
        let write = store(.write(to: remote))
        #expect(write.opcode == .IBV_WR_RDMA_WRITE)
        #expect(write.wr.rdma.remote_addr == remote.address)
        #expect(write.wr.rdma.rkey == remote.rkey)
        let writeImmediate = store(.writeWithImmediate(to: remote, 7))
        #expect(writeImmediate.opcode == .IBV_WR_RDMA_WRITE_WITH_IMM)
        #expect(writeImmediate.imm_data == UInt32(7).bigEndian)
        #expect(writeImmediate.wr.rdma.remote_addr == remote.address)
        #expect(writeImmediate.wr.rdma.rkey == remote.rkey)
        let read = store(.read(from: remote))
        #expect(read.opcode == .IBV_WR_RDMA_READ)
        #expect(read.wr.rdma.remote_addr == remote.address)
        let swap = store(.compareAndSwap(at: remote, expected: 1, desired: 2))
        #expect(swap.opcode == .IBV_WR_ATOMIC_CMP_AND_SWP)
        #expect(swap.wr.atomic.remote_addr == remote.address)
        #expect(swap.wr.atomic.rkey == remote.rkey)
        #expect(swap.wr.atomic.compare_add == 1)
        #expect(swap.wr.atomic.swap == 2)
        let add = store(.fetchAndAdd(at: remote, 2))
        #expect(add.opcode == .IBV_WR_ATOMIC_FETCH_AND_ADD)
        #expect(add.wr.atomic.compare_add == 2)
        #expect(add.wr.atomic.rkey == remote.rkey)
        let atomicWrite = store(.atomicWrite(to: remote))
        #expect(atomicWrite.opcode == .IBV_WR_ATOMIC_WRITE)
        #expect(atomicWrite.wr.rdma.remote_addr == remote.address)
        #expect(atomicWrite.wr.rdma.rkey == remote.rkey)
    }
}
