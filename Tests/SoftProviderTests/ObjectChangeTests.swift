// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftEnds
import Testing
import VerbsABI

@testable import SoftProvider

/// What the manual pages of rdma-core say of changes to objects: ibv_rereg_mr(3), ibv_modify_qp(3), ibv_resize_cq(3).
@Suite("Objects that are changed, through the C ABI", .serialized, .timeLimit(.minutes(10)))
struct ObjectChangeTests {
    private static let translation = UInt32(IBV_REREG_MR_CHANGE_TRANSLATION.rawValue)
    private static let accessChange = UInt32(IBV_REREG_MR_CHANGE_ACCESS.rawValue)

    private func modify(_ end: SoftEnd, to state: ibv_qp_state) throws {
        var attributes = ibv_qp_attr()
        attributes.qp_state = state
        try end.path.modify(end.queuePair, &attributes, mask: .IBV_QP_STATE)
    }

    private func pair() throws -> (SoftEnd, SoftEnd) {
        let (a, b) = (try SoftEnd(), try SoftEnd())
        try a.connect(to: b.description)
        try b.connect(to: a.description)
        return (a, b)
    }

    @Test("A region that is moved keeps its keys, and is written where it is now")
    func movedRegion() throws {
        let (a, b) = try pair()
        let context = try #require(b.path as? SoftContext)
        let keys = (b.region.pointee.lkey, b.region.pointee.rkey)
        let other = UnsafeMutableRawPointer.allocate(byteCount: 8192, alignment: 4096)
        other.initializeMemory(as: UInt8.self, repeating: 0, count: 8192)
        defer { other.deallocate() }
        try context.reregister(
            b.region, flags: Self.translation, domain: nil, address: other, length: 8192, access: 0)
        #expect((b.region.pointee.lkey, b.region.pointee.rkey) == keys)
        #expect(b.region.pointee.addr == other && b.region.pointee.length == 8192)
        var remote = b.description
        remote.address = UInt64(UInt(bitPattern: other))
        a.fill(1)
        #expect(a.post(.IBV_WR_RDMA_WRITE, id: 1, offset: 0, length: 8192, remote: remote) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        #expect(memcmp(a.memory, other, 8192) == 0)
        // The old addresses are of no region any more.
        #expect(a.post(.IBV_WR_RDMA_WRITE, id: 2, offset: 0, length: 8, remote: b.description) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_REM_ACCESS_ERR])
        try a.close()
        try b.close()
    }

    @Test("A region whose access is changed refuses what it does not allow any more")
    func accessOfRegion() throws {
        let (a, b) = try pair()
        let context = try #require(b.path as? SoftContext)
        try context.reregister(
            b.region, flags: Self.accessChange, domain: nil, address: nil, length: 0,
            access: ibv_access_flags.IBV_ACCESS_REMOTE_READ.rawValue)
        #expect(a.post(.IBV_WR_RDMA_READ, id: 1, offset: 0, length: 64, remote: b.description) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        #expect(a.post(.IBV_WR_RDMA_WRITE, id: 2, offset: 0, length: 64, remote: b.description) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_REM_ACCESS_ERR])
        try a.close()
        try b.close()
    }

    @Test("A change that is refused leaves the region as it was: IBV_REREG_MR_ERR_INPUT")
    func refusedChange() throws {
        let (a, b) = try pair()
        let context = try #require(b.path as? SoftContext)
        func refused(_ flags: UInt32, address: UnsafeMutableRawPointer? = nil, length: Int = 0, access: UInt32 = 0) {
            let error = #expect(throws: ProviderError.self) {
                try context.reregister(
                    b.region, flags: flags, domain: nil, address: address, length: length, access: access)
            }
            #expect(error?.code == EINVAL)
        }
        refused(0)
        refused(1 << 3)
        refused(UInt32(IBV_REREG_MR_CHANGE_PD.rawValue))
        refused(Self.translation, address: nil, length: 64)
        refused(Self.translation, address: b.memory, length: 0)
        refused(Self.accessChange, access: ibv_access_flags.IBV_ACCESS_REMOTE_WRITE.rawValue)
        refused(Self.translation, address: b.memory, length: 64, access: SoftEnd.access)
        a.fill(1)
        #expect(a.post(.IBV_WR_RDMA_WRITE, id: 1, offset: 0, length: 4096, remote: b.description) == 0)
        #expect(a.completions(1).map(\.status) == [.IBV_WC_SUCCESS])
        #expect(memcmp(a.memory, b.memory, 4096) == 0)
        try a.close()
        try b.close()
    }

    @Test("A queue is not resized below what waits in it; RESET takes the completions away")
    func resizeAndReset() throws {
        let end = try SoftEnd()
        try end.connect(to: end.description)
        for id in 0..<20 { #expect(end.postReceive(id: UInt64(id), offset: 0, length: 64) == 0) }
        try modify(end, to: .IBV_QPS_ERR)
        let error = #expect(throws: ProviderError.self) { try end.path.resize(end.queue, capacity: 19) }
        #expect(error?.code == EINVAL)
        try end.path.resize(end.queue, capacity: 20)
        #expect(end.completions(1).map(\.wr_id) == [0])
        try modify(end, to: .IBV_QPS_RESET)
        #expect(end.completions(1, within: 0.05).isEmpty)
        // In its next life it works.
        try end.connect(to: end.description)
        #expect(end.postReceive(id: 100, offset: 4096, length: 64) == 0)
        #expect(end.post(.IBV_WR_SEND, id: 101, offset: 0, length: 64) == 0)
        #expect(Set(end.completions(2).map(\.wr_id)) == [100, 101])
        try end.close()
    }
}
