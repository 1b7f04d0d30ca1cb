// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import Synchronization

/// Protects the pages of buffers in flight, so that a program that touches one faults.
///
/// One for each context that was opened so; see ``Device/open(guardsBuffers:)``. It knows the memory that the library
/// allocated, by its local key. A work request protects its pages when it was posted; its completion, or the end of its
/// queue, opens them again. Pages that several requests name are opened by the last. The device does not notice: an
/// embedded one uses the same pages by another mapping, and one of the kernel has pinned them.
///
/// What the fault says is written by a handler of SIGSEGV, in C.
@safe final class BufferGuard: Sendable {
    /// A work request, as the message names it.
    struct WorkRequest {
        /// The address of its record: unique while it is in flight.
        var record: UInt
        var id: UInt64
        /// Zero for a receive of a shared queue.
        var queuePair: UInt32
        var operation: StaticString
        /// The device writes its memory, instead of reading it.
        var isWritten: Bool
        var file: StaticString
        var line: UInt
    }

    /// Memory of a work request.
    struct Range {
        var lkey: UInt32
        /// As the device is told.
        var address: UInt64
        /// The bytes posted, for the message.
        var count: Int
        /// The bytes that nobody else uses.
        var ownedCount: Int
    }

    private struct Protection {
        let region: GuardedRegion
        let pages: Swift.Range<Int>
        let isWritten: Bool
        /// The number of the handler's entry.
        let entry: Int32
    }

    private struct State {
        var regions: [UInt32: GuardedRegion] = [:]
        var protections: [UInt: [Protection]] = [:]
    }

    private let state = Mutex(State())

    /// What the environment says: `VERBS_GUARD`, set to anything but `0`.
    static var isAskedFor: Bool {
        // The environment is read, the string copied at once.
        unsafe getenv("VERBS_GUARD").map { unsafe String(cString: $0) != "0" } ?? false
    }

    init() throws(VerbsError) {
        let code = clinuxnet_guard_start()
        guard code == 0 else {
            throw VerbsError(
                .system, verb: "sigaction", code: code, subject: "buffer guard",
                remedy: "Open the device without VERBS_GUARD")
        }
    }

    /// From here on work requests that name the key are guarded.
    func add(_ region: GuardedRegion, lkey: UInt32) { state.withLock { $0.regions[lkey] = region } }

    /// From here on they are not. What is in flight stays as it is, and its pages mapped.
    func remove(lkey: UInt32) { state.withLock { $0.regions[lkey] = nil } }

    /// Protects the memory of a request; false if nothing of it can be.
    func protect(_ request: WorkRequest, _ ranges: [Range]) -> Bool {
        state.withLock { state in
            var protections: [Protection] = []
            for range in ranges {
                guard let region = state.regions[range.lkey], let pages = region.pages(of: range) else { continue }
                let entry = region.remember(range, pages, request)
                guard entry >= 0 else { continue }
                region.count(pages, isWritten: request.isWritten, by: 1)
                protections.append(
                    Protection(region: region, pages: pages, isWritten: request.isWritten, entry: entry))
            }
            guard !protections.isEmpty else { return false }
            state.protections[request.record] = protections
            return true
        }
    }

    /// Opens what ``protect(_:_:)`` protected.
    func open(record: UInt) {
        state.withLock { state in
            for protection in state.protections.removeValue(forKey: record) ?? [] {
                protection.region.count(protection.pages, isWritten: protection.isWritten, by: -1)
                clinuxnet_guard_forget(protection.entry)
            }
        }
    }
}

/// A memory region of the library's own allocation, with what is in flight on each of its pages.
@safe final class GuardedRegion: @unchecked Sendable {  // Its counts are behind the lock of the one guard it is in.
    /// Keeps the pages mapped while one is protected.
    private let mapping: MemoryMapping
    private let ioAddress: UInt64
    private let length: Int
    /// Work requests in flight that the device reads from, and writes to, by page.
    private var readCounts: [UInt32]
    private var writeCounts: [UInt32]
    /// The system refused to protect a page: none is any more.
    private var isGivenUp = false

    static let pageSize = Int(sysconf(Int32(_SC_PAGESIZE)))

    init(_ mapping: MemoryMapping, ioAddress: UInt64, length: Int) {
        self.mapping = mapping
        self.ioAddress = ioAddress
        self.length = length
        readCounts = Array(repeating: 0, count: mapping.length / Self.pageSize)
        writeCounts = readCounts
    }

    /// The pages that lie wholly in what a range owns; `nil` if none does. What follows the region on its last page
    /// is nobody's.
    func pages(of range: BufferGuard.Range) -> Swift.Range<Int>? {
        guard range.address >= ioAddress, range.address - ioAddress <= UInt64(length) else { return nil }
        let offset = Int(range.address - ioAddress)
        let end = offset + min(range.ownedCount, length - offset)
        let first = (offset + Self.pageSize - 1) / Self.pageSize
        let last = end == length ? readCounts.count : end / Self.pageSize
        return first < last && offset < end ? first..<last : nil
    }

    /// Tells the handler whose pages these are; returns its number for them, or -1.
    func remember(
        _ range: BufferGuard.Range, _ pages: Swift.Range<Int>, _ request: BufferGuard.WorkRequest
    ) -> Int32 {
        let base = unsafe UInt(bitPattern: mapping.address)
        // The texts of static strings are never freed.
        var entry = unsafe clinuxnet_guarded_range(
            first: base + UInt(pages.lowerBound * Self.pageSize), end: base + UInt(pages.upperBound * Self.pageSize),
            buffer: base + UInt(range.address - ioAddress), length: UInt64(range.count), id: request.id,
            queue_pair: request.queuePair, is_written: request.isWritten ? 1 : 0,
            operation: UnsafeRawPointer(request.operation.utf8Start).assumingMemoryBound(to: CChar.self),
            file: UnsafeRawPointer(request.file.utf8Start).assumingMemoryBound(to: CChar.self),
            file_length: UInt32(clamping: request.file.utf8CodeUnitCount), line: UInt32(clamping: request.line))
        // Read during the call.
        return unsafe clinuxnet_guard_remember(&entry)
    }

    /// Counts requests that are in flight on these pages, and protects or opens them.
    func count(_ pages: Swift.Range<Int>, isWritten: Bool, by change: Int32) {
        let change = UInt32(bitPattern: change)
        for page in pages {
            if isWritten { writeCounts[page] &+= change } else { readCounts[page] &+= change }
        }
        guard !isGivenUp else { return }
        var start = pages.lowerBound
        while start < pages.upperBound {
            let wanted = protection(of: start)
            var end = start + 1
            while end < pages.upperBound, protection(of: end) == wanted { end += 1 }
            guard protect(start..<end, wanted) else { return giveUp() }
            start = end
        }
    }

    private func protection(of page: Int) -> Int32 {
        if writeCounts[page] != 0 { return PROT_NONE }
        return readCounts[page] != 0 ? PROT_READ : PROT_READ | PROT_WRITE
    }

    private func protect(_ pages: Swift.Range<Int>, _ protection: Int32) -> Bool {
        // Within the mapping, which this object keeps.
        unsafe mprotect(
            mapping.address + pages.lowerBound * Self.pageSize, pages.count * Self.pageSize, protection) == 0
    }

    /// Each change of protection may split a mapping of the process, of which the system allows so many. A page that
    /// could not be opened would accuse the program of what it did not do.
    private func giveUp() {
        let code = errno
        let text =
            "swift-verbs: the buffer guard lets go of a memory region of \(length) bytes: "
            + "mprotect: \(ErrorNumber.name(code)). Raise vm.max_map_count, or use fewer buffers.\n"
        isGivenUp = true
        _ = protect(0..<readCounts.count, PROT_READ | PROT_WRITE)
        // The string is read during the call.
        _ = unsafe text.withCString { unsafe write(STDERR_FILENO, $0, strlen($0)) }
    }
}
