// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftProvider
import VerbsABI

/// Sizes of an rsocket's queues and buffers, with what librdmacm begins with.
struct StreamSizes {
    static let queueRange = 16...16_384
    /// At least two of the pieces below which nothing is sent, at most what one message of the protocol can count.
    static let bufferRange = 4_096...268_435_456

    var sends = 384
    var receives = 384
    var inlineBytes = 64
    var sendBytes = 131_072
    var receiveBytes = 131_072
    var offsetMapCount = 0
}

/// A connected byte stream: the state machine of the protocol on top of its queue pair.
///
/// Bytes go from the send ring to the peer's receive buffer, one write with immediate data for each piece. The receive ring
/// has two halves, each granted to the peer when it is empty: by an entry in the peer's table of targets, and a credit
/// message. A message takes a credit until its last byte is read.
///
/// Its owner calls it with a lock held.
final class ByteStream {
    private static let controlSlots = 4
    private static let targetCount = 2
    private static let mapEntryByteCount = 24
    /// Less than this is not worth a message while more is being sent.
    private static let sendBytesMin = 2_048

    private let pair: StreamQueuePair
    private let sendRing: StreamMemory
    private let receiveRing: StreamMemory
    /// What the peer writes to: its two receive buffers, then its mapped memory.
    private let tables: StreamMemory
    private let sizes: StreamSizes
    private let half: Int
    private var isArmed = false

    // Sending
    private var freeSends: Int
    private var freeControls = ByteStream.controlSlots
    private var sendOffset = 0
    private var freeBytes: Int
    private var sentCount: UInt16 = 0
    private var sendLimit: UInt16 = 0
    private var target = RemoteRange(address: 0, key: 0, length: 0)
    private var targetIndex = 0

    // Receiving
    private var lengths: [UInt32]
    private var lengthsHead = 0
    private var lengthsCount = 0
    private var readOffset = 0
    private var readableBytes = 0
    private var readCount: UInt16 = 0
    private var creditsDue: UInt16
    /// Bytes of the receive ring that the peer has no grant for.
    private var ungrantedBytes: Int
    private var grantOffset: Int
    private var peerTargets = RemoteRange(address: 0, key: 0, length: 1)
    private var peerTargetIndex: UInt32 = 1
    private var isPeerSwapped = false

    // Mapped memory
    private var peerMap = RemoteRange(address: 0, key: 0, length: 0)
    private var mappings: [Mapping] = []

    /// Memory of the program that the peer may write to by offset, or that was only registered.
    private struct Mapping {
        let address: UInt
        let count: Int
        let offset: Int
        let region: UInt
        /// Its entry in the peer's table.
        let index: UInt32?
        var isAnnounced: Bool
    }

    // How it stands
    /// The program may read, or the peer's end was not reached.
    private(set) var isReadable = true
    /// The program may write.
    private(set) var isWritable = true
    /// Neither end has said that all is over, and nothing failed.
    private(set) var isConnected = true
    /// The program ended its own direction: what it still writes is its mistake and not the peer's doing.
    private(set) var isShutDown = false
    /// Of a connection that broke, until it was told.
    private(set) var failure: Int32 = 0
    private(set) var lastSign: UInt64 = monotonicNanoseconds()

    init(_ identifier: UnsafeMutablePointer<rdma_cm_id>, _ sizes: StreamSizes) throws(ProviderError) {
        self.sizes = sizes
        // Control messages need receives besides those that credits count.
        let receives = sizes.receives + 2 * Self.controlSlots
        pair = unsafe try StreamQueuePair(
            identifier, sends: sizes.sends, receives: receives, inlineBytes: sizes.inlineBytes)
        half = sizes.receiveBytes / 2
        sendRing = unsafe try StreamMemory(pair.domain, count: sizes.sendBytes, isWrittenByPeer: false)
        receiveRing = unsafe try StreamMemory(pair.domain, count: 2 * half, isWrittenByPeer: true)
        tables = unsafe try StreamMemory(
            pair.domain,
            count: Self.targetCount * RemoteRange.byteCount + sizes.offsetMapCount * Self.mapEntryByteCount,
            isWrittenByPeer: true)
        freeSends = sizes.sends - Self.controlSlots
        freeBytes = sizes.sendBytes
        lengths = [UInt32](repeating: 0, count: sizes.receives)
        creditsDue = UInt16(sizes.receives / 2)
        ungrantedBytes = half
        grantOffset = half
        let code = pair.postReceives(receives)
        guard code == 0 else { throw ProviderError("rsocket", code: code) }
    }

    deinit {
        for mapping in mappings { Self.deregister(mapping) }
    }

    var queuePairNumber: UInt32 { pair.number }
    var descriptor: Int32 { pair.descriptor }

    /// What the peer is told of this end.
    var greeting: StreamGreeting {
        StreamGreeting(
            credits: UInt16(sizes.receives), offsetMapCount: sizes.offsetMapCount,
            targets: RemoteRange(address: tables.address, key: tables.remoteKey, length: UInt32(Self.targetCount)),
            firstBuffer: RemoteRange(address: receiveRing.address, key: receiveRing.remoteKey, length: UInt32(half)))
    }

    /// Takes what the peer said of its end. Before this nothing is sent.
    func meet(_ peer: StreamGreeting) {
        sendLimit = peer.credits
        target = peer.firstBuffer
        peerTargets = peer.targets
        isPeerSwapped = peer.isSwapped
        let (tableBytes, _) = UInt64(peer.targets.length).multipliedReportingOverflow(by: UInt64(RemoteRange.byteCount))
        peerMap = RemoteRange(
            address: peer.targets.address &+ tableBytes, key: peer.targets.key, length: UInt32(peer.offsetMapCount))
        peerTargetIndex = 1 % peer.targets.length
    }

    // MARK: Progress

    /// Takes what completed, and grants what was read.
    /// - Returns: whether anything happened.
    @discardableResult
    func progress() -> Bool {
        var count = 0
        var received = 0
        while let completion = pair.poll() {
            count += 1
            switch completion {
            case .sent(.control): freeControls += 1
            case .sent(.ring(let bytes)):
                freeSends += 1
                freeBytes += bytes
            case .received(let immediate):
                received += 1
                take(immediate)
            case .failed: fail(ECONNRESET)
            }
        }
        if count > 0 { lastSign = monotonicNanoseconds() }
        guard isConnected else { return count > 0 }
        if received > 0, pair.postReceives(received) != 0 { fail(ECONNRESET) }
        grant()
        announceMappings()
        return count > 0
    }

    private func take(_ immediate: UInt32) {
        switch StreamMessage(immediate: immediate) {
        case .data(let count):
            // A peer that sends more than it was granted.
            guard lengthsCount < lengths.count, Int(count) <= 2 * half - readableBytes else { return fail(EPROTO) }
            guard count > 0 else {
                readCount &+= 1
                return
            }
            lengths[(lengthsHead + lengthsCount) % lengths.count] = count
            lengthsCount += 1
            readableBytes += Int(count)
        case .credit(let limit): sendLimit = limit
        case .mapped: readCount &+= 1  // It took a credit, and the entry is looked up when it is needed.
        case .control(.disconnect): end()
        case .control(.shutdown):
            isReadable = false
            if !isWritable { isConnected = false }
        case .control(.keepalive): break
        case nil: fail(EPROTO)
        }
    }

    /// The peer is gone, by its own will as far as can be known. What came before can still be read.
    func end() {
        isReadable = false
        isWritable = false
        isConnected = false
    }

    private func fail(_ code: Int32) {
        guard isConnected else { return }
        failure = code
        end()
    }

    /// The error of a connection that broke, once.
    func takeFailure() -> Int32 {
        defer { failure = 0 }
        return failure
    }

    private func grant() {
        let isBufferFree = ungrantedBytes >= half
        guard freeControls > 0, isBufferFree || Int16(bitPattern: readCount &- creditsDue) >= 0 else { return }
        freeControls -= 1
        creditsDue = readCount &+ UInt16(sizes.receives / 2)
        let message = StreamMessage.credit(readCount &+ UInt16(sizes.receives))
        let code: Int32
        if isBufferFree {
            let buffer = RemoteRange(
                address: receiveRing.address + UInt64(grantOffset), key: receiveRing.remoteKey, length: UInt32(half))
            let place = RemoteRange(
                address: peerTargets.address &+ UInt64(peerTargetIndex) * UInt64(RemoteRange.byteCount),
                key: peerTargets.key, length: 0)
            code = pair.post(Entry(buffer.swapped(isPeerSwapped)), to: place, message, .control)
            ungrantedBytes -= half
            grantOffset = half - grantOffset
            peerTargetIndex = (peerTargetIndex + 1) % peerTargets.length
        } else {
            code = pair.post(message)
        }
        if code != 0 { fail(ECONNRESET) }
    }

    /// A `RemoteRange` as it lies in memory.
    private struct Entry: BitwiseCopyable {
        let address: UInt64
        let key: UInt32
        let length: UInt32

        init(_ range: RemoteRange) {
            address = range.address
            key = range.key
            length = range.length
        }
    }

    /// Writes something that takes neither credit nor buffer, so that the peer's device has to answer; if it does not, the
    /// send fails, and with it the stream. Sends that are under way do the same.
    func probe() {
        guard isConnected, freeControls == Self.controlSlots, freeSends == sizes.sends - Self.controlSlots else {
            return
        }
        lastSign = monotonicNanoseconds()
        freeControls -= 1
        if pair.postProbe() != 0 { fail(ECONNRESET) }
    }

    // MARK: Waiting

    /// - Returns: whether it was not armed before, so that one has to look again before one sleeps.
    func arm() -> Bool {
        if pair.takeEvent() { isArmed = false }
        guard !isArmed else { return false }
        isArmed = true
        pair.arm()
        return true
    }

    // MARK: Sending

    /// The next buffer of the peer, once the one before is full.
    private func hasTarget() -> Bool {
        if target.length > 0 { return true }
        let next = 1 - targetIndex
        let place = unsafe tables.base + next * RemoteRange.byteCount
        // The peer writes an entry only while it is empty here. Its length comes last, so it is looked at first.
        let length = unsafe place.load(fromByteOffset: 12, as: UInt32.self)
        guard length > 0 else { return false }
        target = RemoteRange(
            address: unsafe place.load(as: UInt64.self), key: unsafe place.load(fromByteOffset: 8, as: UInt32.self),
            length: length)
        unsafe place.storeBytes(of: 0, toByteOffset: 12, as: UInt32.self)
        targetIndex = next
        return true
    }

    private var hasRoom: Bool { freeSends > 0 && freeBytes >= min(Self.sendBytesMin, sizes.sendBytes) }

    var canSend: Bool {
        isWritable && hasRoom && sentCount != sendLimit && !hasUnannouncedMapping && hasTarget()
    }

    /// Sends as much as can be sent now.
    /// - Returns: the bytes that were taken.
    func send(_ bytes: UnsafeRawBufferPointer) -> Int {
        var done = 0
        while done < bytes.count, canSend {
            let count = min(bytes.count - done, freeBytes, Int(target.length), max(sizes.sendBytes / 2, 1))
            let start = unsafe fill(UnsafeRawBufferPointer(rebasing: bytes[done..<done + count]))
            sentCount &+= 1
            let code = pair.write(
                sendRing, from: start, count: count, to: target, .data(UInt32(count)), .ring(count))
            target.address &+= UInt64(count)
            target.length -= UInt32(count)
            guard code == 0 else {
                fail(ECONNRESET)
                break
            }
            done += count
        }
        return done
    }

    /// Copies bytes into the send ring, where there is room for them.
    /// - Returns: where they begin.
    private func fill(_ bytes: UnsafeRawBufferPointer) -> Int {
        let start = sendOffset
        let first = min(bytes.count, sendRing.count - start)
        unsafe (sendRing.base + start).copyMemory(from: bytes.baseAddress!, byteCount: first)
        if first < bytes.count {
            unsafe sendRing.base.copyMemory(from: bytes.baseAddress! + first, byteCount: bytes.count - first)
        }
        sendOffset = (start + bytes.count) % sendRing.count
        freeSends -= 1
        freeBytes -= bytes.count
        return start
    }

    // MARK: Receiving

    var hasData: Bool { readableBytes > 0 }

    /// Copies what came, as much as there is room for, and keeps it if it is only looked at.
    func receive(_ buffer: UnsafeMutableRawBufferPointer, isPeeking: Bool) -> Int {
        let count = min(buffer.count, readableBytes)
        guard count > 0 else { return 0 }
        let first = min(count, receiveRing.count - readOffset)
        unsafe buffer.baseAddress!.copyMemory(from: receiveRing.base + readOffset, byteCount: first)
        if first < count {
            unsafe (buffer.baseAddress! + first).copyMemory(from: receiveRing.base, byteCount: count - first)
        }
        if !isPeeking { consume(count) }
        return count
    }

    private func consume(_ count: Int) {
        readableBytes -= count
        ungrantedBytes += count
        readOffset = (readOffset + count) % receiveRing.count
        var left = UInt32(count)
        while left > 0 {
            let length = lengths[lengthsHead]
            guard length <= left else {
                lengths[lengthsHead] = length - left
                break
            }
            left -= length
            lengthsHead = (lengthsHead + 1) % lengths.count
            lengthsCount -= 1
            readCount &+= 1
        }
        if isConnected { grant() }
    }

    // MARK: The end

    /// Whether a message about the end can be posted, or is not needed.
    var canEnd: Bool { freeControls > 0 || !isConnected }

    /// Ends directions, and tells the peer. To be called when `canEnd`.
    func shutDown(reading: Bool, writing: Bool) {
        guard isConnected, !isClosing else { return }
        let wasWritable = isWritable
        if reading { isReadable = false }
        if writing {
            isWritable = false
            isShutDown = true
        }
        // Only reading ended: the peer does not need to know.
        guard !isWritable, wasWritable || !isReadable else { return }
        freeControls -= 1
        let isLast = !isReadable
        if pair.post(.control(isLast ? .disconnect : .shutdown)) != 0 { fail(ECONNRESET) }
        if isLast { isClosing = true }
    }

    /// The last message was sent: nothing more is expected of the peer than its device's answer.
    private var isClosing = false

    /// Whether everything that was sent has arrived, or never will.
    var isDrained: Bool {
        !isConnected
            || (freeControls == Self.controlSlots && freeSends == sizes.sends - Self.controlSlots)
    }

    // MARK: Mapped memory

    private var hasUnannouncedMapping: Bool { mappings.contains { !$0.isAnnounced } }

    /// Registers memory of the program, and tells the peer if it may write there.
    func map(_ memory: UnsafeMutableRawBufferPointer, offset: Int, isWritable: Bool) -> Int32 {
        var index: UInt32?
        if isWritable {
            index = (0..<peerMap.length).first { candidate in !mappings.contains { $0.index == candidate } }
            guard index != nil else { return ENOMEM }
        }
        var access = ibv_access_flags.IBV_ACCESS_LOCAL_WRITE
        if isWritable { access.insert(.IBV_ACCESS_REMOTE_WRITE) }
        guard let region = unsafe ibv_reg_mr(pair.domain, memory.baseAddress, memory.count, Int32(access.rawValue))
        else {
            return errno
        }
        mappings.append(
            Mapping(
                address: UInt(bitPattern: memory.baseAddress), count: memory.count, offset: offset,
                region: UInt(bitPattern: region), index: index, isAnnounced: index == nil))
        announceMappings()
        return 0
    }

    func unmap(_ memory: UnsafeMutableRawBufferPointer) -> Int32 {
        let address = UInt(bitPattern: memory.baseAddress)
        guard let place = mappings.firstIndex(where: { $0.address == address && $0.count == memory.count }) else {
            return EINVAL
        }
        Self.deregister(mappings.remove(at: place))
        return 0
    }

    private static func deregister(_ mapping: Mapping) {
        _ = unsafe ibv_dereg_mr(UnsafeMutablePointer(bitPattern: mapping.region))
    }

    /// An entry of the table of mapped memory as it lies there.
    private struct MapEntry: BitwiseCopyable {
        let offset: UInt64
        let range: Entry
    }

    private func announceMappings() {
        guard !mappings.isEmpty else { return }
        for place in mappings.indices {
            guard let index = mappings[place].index, !mappings[place].isAnnounced else { continue }
            guard isWritable, freeSends > 0, sentCount != sendLimit else { return }
            let mapping = mappings[place]
            let key = unsafe UnsafeMutablePointer<ibv_mr>(bitPattern: mapping.region)!.pointee.rkey
            let range = RemoteRange(address: UInt64(mapping.address), key: key, length: UInt32(clamping: mapping.count))
            let offset = UInt64(bitPattern: Int64(mapping.offset))
            sentCount &+= 1
            freeSends -= 1
            let target = RemoteRange(
                address: peerMap.address &+ UInt64(index) * UInt64(Self.mapEntryByteCount), key: peerMap.key, length: 0)
            let entry = MapEntry(
                offset: isPeerSwapped ? offset.byteSwapped : offset, range: Entry(range.swapped(isPeerSwapped)))
            if pair.post(entry, to: target, .mapped(index), .ring(0)) != 0 { return fail(ECONNRESET) }
            mappings[place].isAnnounced = true
        }
    }

    /// The peer's memory at an offset, as far as one mapping of it reaches.
    private func mapped(at offset: UInt64) -> RemoteRange? {
        for index in 0..<sizes.offsetMapCount {
            // Copied before it is judged: the peer may write it again.
            let place = unsafe tables.base + Self.targetCount * RemoteRange.byteCount + index * Self.mapEntryByteCount
            let first = unsafe place.load(as: UInt64.self)
            let address = unsafe place.load(fromByteOffset: 8, as: UInt64.self)
            let key = unsafe place.load(fromByteOffset: 16, as: UInt32.self)
            let length = unsafe place.load(fromByteOffset: 20, as: UInt32.self)
            if offset >= first, offset - first < UInt64(length) {
                let skipped = offset - first
                return RemoteRange(address: address &+ skipped, key: key, length: length - UInt32(skipped))
            }
        }
        return nil
    }

    enum MappedWrite {
        case written(Int)
        case notMapped
    }

    /// Writes bytes to mapped memory of the peer, as many as can be written now.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) -> MappedWrite {
        var done = 0
        while done < bytes.count, isWritable, hasRoom, !hasUnannouncedMapping {
            guard let target = mapped(at: UInt64(bitPattern: Int64(offset + done))) else {
                return done > 0 ? .written(done) : .notMapped
            }
            let count = min(bytes.count - done, freeBytes, Int(target.length), max(sizes.sendBytes / 2, 1))
            let start = unsafe fill(UnsafeRawBufferPointer(rebasing: bytes[done..<done + count]))
            guard pair.write(sendRing, from: start, count: count, to: target, nil, .ring(count)) == 0 else {
                fail(ECONNRESET)
                break
            }
            done += count
        }
        return .written(done)
    }

    /// Whether bytes can be written to mapped memory.
    var canWriteMapped: Bool { isWritable && hasRoom && !hasUnannouncedMapping }
}
