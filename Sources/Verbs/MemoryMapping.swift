// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc

/// Zeroed pages of our own, unmapped when let go.
@safe final class MemoryMapping: @unchecked Sendable {  // Constant members.
    /// The size of the pages that back it.
    enum Pages {
        case standard
        /// 2 MiB pages reserved by the administrator; fails where there are none.
        case huge
        /// Standard pages that the kernel may merge to huge ones.
        case transparentHuge
    }

    // Linux's own, which the C module leaves out: MAP_HUGETLB and MADV_HUGEPAGE.
    private static let hugePagesFlag: Int32 = 0x40000
    private static let hugePagesAdvice: Int32 = 14

    let address: UnsafeMutableRawPointer
    /// Where a device of this process finds the same pages: elsewhere, if they were mapped twice.
    let deviceAddress: UnsafeMutableRawPointer
    let length: Int
    /// Pages of ours in front, so that a device may keep its notes before the first buffer (AF_XDP does).
    private let leadLength: Int

    /// `length` is rounded up to whole pages.
    init(length: Int, pages: Pages) throws(VerbsError) {
        let pageSize = pages == .standard ? Int(sysconf(Int32(_SC_PAGESIZE))) : 2 << 20
        guard length > 0, length <= Int.max - pageSize else { throw Self.emptyLength(length) }
        self.length = (length + pageSize - 1) / pageSize * pageSize
        leadLength = pages == .standard ? pageSize : 0
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | (pages == .huge ? Self.hugePagesFlag : 0)
        let mapped = unsafe mmap(nil, leadLength + self.length, PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let mapped = unsafe mapped, unsafe mapped != MAP_FAILED else {
            let code = errno
            throw VerbsError(
                .outOfMemory, verb: "mmap", code: code, subject: pages == .huge ? "huge pages" : nil,
                value: Diagnosis.bytes(UInt64(self.length)),
                remedy: pages == .huge
                    ? "Reserve huge pages with `sysctl vm.nr_hugepages=N`, or ask for .transparentHuge"
                    : "The system is out of memory")
        }
        unsafe address = mapped + leadLength
        unsafe deviceAddress = address
        if pages == .transparentHuge { _ = unsafe madvise(address, self.length, Self.hugePagesAdvice) }
    }

    /// Standard pages, mapped twice: what is protected in one mapping stays open in the other.
    init(twice length: Int) throws(VerbsError) {
        let pageSize = Int(sysconf(Int32(_SC_PAGESIZE)))
        guard length > 0, length <= Int.max - pageSize else { throw Self.emptyLength(length) }
        self.length = (length + pageSize - 1) / pageSize * pageSize
        leadLength = 0
        // The name is a constant.
        let file = unsafe clinuxnet_sealed_memory("swift-verbs guarded", Int64(self.length))
        guard file >= 0 else { throw Self.failure("memfd_create", code: errno, length: self.length) }
        defer { close(file) }
        let first = unsafe mmap(nil, self.length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        guard let first = unsafe first, unsafe first != MAP_FAILED else {
            throw Self.failure("mmap", code: errno, length: self.length)
        }
        let second = unsafe mmap(nil, self.length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
        guard let second = unsafe second, unsafe second != MAP_FAILED else {
            let code = errno
            unsafe munmap(first, self.length)
            throw Self.failure("mmap", code: code, length: self.length)
        }
        unsafe address = first
        unsafe deviceAddress = second
    }

    deinit {
        unsafe munmap(address - leadLength, leadLength + length)
        if unsafe deviceAddress != address { unsafe munmap(deviceAddress, length) }
    }

    private static func emptyLength(_ length: Int) -> VerbsError {
        VerbsError(
            .invalidAttribute, verb: "mmap", code: EINVAL, subject: "length", value: "\(length)",
            remedy: "Ask for at least one byte")
    }

    private static func failure(_ verb: String, code: Int32, length: Int) -> VerbsError {
        VerbsError(
            .outOfMemory, verb: verb, code: code, value: Diagnosis.bytes(UInt64(length)),
            remedy: "The system is out of memory")
    }
}
