// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// Waiting for rsockets and other descriptors together.

extension RSocket {
    /// POLLRDHUP, which poll.h has for C with GNU's extensions alone.
    private static let peerEnded: Int16 = 0x2000

    /// What `poll` says of it, as of a socket of TCP.
    private func readiness(_ asked: Int16) -> Int16 {
        let (input, output) = (asked & Int16(POLLIN | POLLRDNORM), asked & Int16(POLLOUT | POLLWRNORM))
        switch phase {
        case .idle: return output | Int16(POLLHUP)
        case .connecting: return 0
        case .listening(let listener): return listener.hasConnection ? input : 0
        case .failed: return input | output | Int16(POLLERR | POLLHUP)
        case .closed: return Int16(POLLNVAL)
        case .datagrams(let end): return (end.hasArrival ? input : 0) | (end.canSend ? output : 0)
        case .connected(let stream):
            var result: Int16 = 0
            if stream.hasData || !stream.isReadable { result |= input }
            if stream.canSend || !stream.isWritable { result |= output }
            if !stream.isReadable { result |= asked & Self.peerEnded }
            // Not while there is something to read: programs take it for the end.
            if !stream.isReadable && !stream.isWritable && !stream.hasData { result |= Int16(POLLHUP) }
            if stream.failure != 0 { result |= Int16(POLLERR) }
            return result
        }
    }

    /// What it is ready for, and if nothing, what to sleep on.
    fileprivate func look(
        _ asked: Int16, bell: Int32?
    ) -> (ready: Int16, mayBeMore: Bool, descriptors: [Int32]) {
        locked {
            progress()
            let ready = readiness(asked)
            if ready != 0 { return (ready, false, []) }
            progressThoroughly()
            let later = readiness(asked)
            guard later == 0, let bell else { return (later, false, []) }
            return (0, enlist(bell), descriptors)
        }
    }
}

/// `poll` with rsockets among the descriptors; without any it is `poll`.
private func pollAll(_ entries: UnsafeMutableBufferPointer<pollfd>, _ timeout: Int32) -> Int32 {
    let sockets = unsafe entries.map { $0.fd >= 0 ? RSockets.find($0.fd) : nil }
    guard sockets.contains(where: { $0 != nil }) else {
        return unsafe poll(entries.baseAddress, nfds_t(entries.count), timeout)
    }
    let begun = monotonicNanoseconds()
    let deadline = timeout < 0 ? UInt64.max : begun + UInt64(timeout) * 1_000_000
    var bell: Int32?
    defer {
        if let bell {
            for socket in sockets { socket?.locked { socket?.dismiss(bell) } }
            Bells.giveBack(bell)
        }
    }
    var limit: Int32 = 0
    while true {
        var count: Int32 = 0
        var mayBeMore = false
        var sources: [pollfd] = []
        for (index, socket) in sockets.enumerated() {
            if let socket {
                let state = unsafe socket.look(entries[index].events, bell: bell)
                unsafe entries[index].revents = state.ready
                if state.ready != 0 { count += 1 }
                mayBeMore = mayBeMore || state.mayBeMore
                sources += state.descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
            } else {
                unsafe entries[index].revents = 0
                unsafe sources.append(pollfd(fd: entries[index].fd, events: entries[index].events, revents: 0))
            }
        }
        if let bell { sources.append(pollfd(fd: bell, events: Int16(POLLIN), revents: 0)) }
        let isSleeping = count == 0 && !mayBeMore
        let code = unsafe poll(&sources, nfds_t(sources.count), isSleeping ? limit : 0)
        if code < 0 { return -1 }
        if let bell { Bells.silence(bell) }
        // The others stand in `sources` in the order of the entries, each after what rsockets before it added.
        var next = sources.makeIterator()
        for (index, socket) in sockets.enumerated() where socket == nil {
            let number = unsafe entries[index].fd
            while let source = next.next() {
                guard source.fd == number else { continue }
                unsafe entries[index].revents = source.revents
                if source.revents != 0 { count += 1 }
                break
            }
        }
        if count > 0 { return count }
        let now = monotonicNanoseconds()
        if now >= deadline { return 0 }
        if now - begun < RSocket.spinNanosecondsMax { continue }
        if bell == nil {
            bell = Bells.take()
            if bell == nil {
                errno = ENOMEM
                return -1
            }
        } else {
            limit = Int32((min(RSocket.silenceNanosecondsMax, deadline - now) + 999_999) / 1_000_000)
        }
    }
}

/// `rpoll`
@c @implementation
public func rpoll(_ entries: UnsafeMutablePointer<pollfd>!, _ count: nfds_t, _ timeout: Int32) -> Int32 {
    unsafe pollAll(UnsafeMutableBufferPointer(start: entries, count: Int(count)), timeout)
}

/// `rselect`
@c @implementation
public func rselect(
    _ count: Int32, _ reading: UnsafeMutablePointer<fd_set>!, _ writing: UnsafeMutablePointer<fd_set>!,
    _ failing: UnsafeMutablePointer<fd_set>!, _ timeout: UnsafeMutablePointer<timeval>!
) -> Int32 {
    guard count >= 0, count <= Int32(MemoryLayout<fd_set>.size * 8) else {
        errno = EINVAL
        return -1
    }
    let sets = unsafe [DescriptorSet(reading), DescriptorSet(writing), DescriptorSet(failing)]
    let meanings = [Int16(POLLIN), Int16(POLLOUT), Int16(POLLPRI)]
    var entries: [pollfd] = []
    for number in 0..<count {
        let events = zip(sets, meanings).reduce(Int16(0)) { $1.0.contains(number) ? $0 | $1.1 : $0 }
        if events != 0 { entries.append(pollfd(fd: number, events: events, revents: 0)) }
    }
    let milliseconds = unsafe timeout.map {
        unsafe Int32(clamping: $0.pointee.tv_sec * 1_000 + $0.pointee.tv_usec / 1_000)
    }
    let result = unsafe entries.withUnsafeMutableBufferPointer { unsafe pollAll($0, milliseconds ?? -1) }
    guard result >= 0 else { return result }
    if entries.contains(where: { $0.revents & Int16(POLLNVAL) != 0 }) {
        errno = EBADF
        return -1
    }
    // What of the answer each set shows, as select(2) has it.
    let answers = [Int16(POLLIN | POLLHUP | POLLERR), Int16(POLLOUT | POLLERR), Int16(POLLPRI)]
    var found: Int32 = 0
    for (index, set) in sets.enumerated() {
        set.removeAll(below: count)
        for entry in entries where entry.events & meanings[index] != 0 && entry.revents & answers[index] != 0 {
            set.insert(entry.fd)
            found += 1
        }
    }
    return found
}

/// A set of `select`, of which there may be none: bits in words, the lowest first.
@safe private struct DescriptorSet {
    // The program's, for the time of the call.
    private let words: UnsafeMutablePointer<UInt>?

    init(_ set: UnsafeMutablePointer<fd_set>?) {
        unsafe words = unsafe set.map { unsafe UnsafeMutableRawPointer($0).assumingMemoryBound(to: UInt.self) }
    }

    func contains(_ number: Int32) -> Bool {
        guard let words = unsafe words else { return false }
        return unsafe words[Int(number) / UInt.bitWidth] >> UInt(Int(number) % UInt.bitWidth) & 1 == 1
    }

    func insert(_ number: Int32) {
        unsafe words?[Int(number) / UInt.bitWidth] |= 1 << UInt(Int(number) % UInt.bitWidth)
    }

    func removeAll(below count: Int32) {
        for number in 0..<count {
            unsafe words?[Int(number) / UInt.bitWidth] &= ~(1 << UInt(Int(number) % UInt.bitWidth))
        }
    }
}
