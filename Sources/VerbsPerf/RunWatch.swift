// SPDX-License-Identifier: Apache-2.0
import Glibc

/// What a measuring loop does while there is nothing to poll: spin a little, then yield the processor, and now and then
/// look whether the peer is still there and whether anything has moved.
///
/// Two ends that both spin on one processor starve each other: microseconds become milliseconds. So a spin ends in a
/// yield. Looking at the clock and the socket is paid for by idle polls only.
struct RunWatch {
    /// Empty polls before the first yield. A poll of the embedded device is a system call already, one of a kernel
    /// device a look at memory.
    private let spinLimit: UInt32
    /// Idle polls between two looks at the clock.
    private static let lookInterval: UInt32 = 256
    private static let second: UInt64 = 1_000_000_000

    private let connection: any PeerLink
    /// Whether a connection that the peer closes means that it ended.
    private let peerStays: Bool
    private let stallNanoseconds: UInt64
    private let progress: ((String) -> Void)?
    /// All messages of the run, 0 if there is no number.
    private let total: Int
    private let started: UInt64
    private var idle: UInt32 = 0
    private var lastMovement: UInt64
    private var lastCheck: UInt64
    private var lastCount = -1
    private var goneSince: UInt64?
    /// The peer has gone on to its next step, and nothing has come for a second: what is still missing was lost.
    private(set) var isPeerDone = false
    /// Nothing has moved for two seconds.
    private(set) var isQuiet = false
    private var hasShown = false

    /// - Parameter peerStays: whether a peer that is well keeps the connection open until the end.
    init(
        connection: any PeerLink, peerStays: Bool = true, isEmbeddedDevice: Bool, stallSeconds: Int, total: Int,
        progress: ((String) -> Void)? = nil
    ) {
        self.connection = connection
        self.peerStays = peerStays
        spinLimit = isEmbeddedDevice ? 16 : 512
        stallNanoseconds = UInt64(stallSeconds) * Self.second
        self.total = total
        self.progress = progress
        started = monotonicNanoseconds()
        lastMovement = started
        lastCheck = started
    }

    /// A poll found something.
    @inline(__always)
    mutating func moved() { idle = 0 }

    /// A poll found nothing.
    ///
    /// - Parameter count: messages done so far, to tell waiting from standing still.
    /// - Throws: ``PerfError/peerGone(_:)`` or ``PerfError/stalled(_:)``.
    @inline(__always)
    mutating func isIdle(count: Int) throws(PerfError) {
        idle &+= 1
        if idle > spinLimit { try pause(count) }
    }

    @inline(never)
    private mutating func pause(_ count: Int) throws(PerfError) {
        sched_yield()
        if idle % Self.lookInterval == 0 { try look(count) }
    }

    /// Looks at the clock, at most every tenth of a second at the socket.
    @inline(never)
    mutating func look(_ count: Int) throws(PerfError) {
        let now = monotonicNanoseconds()
        if count != lastCount {
            lastCount = count
            lastMovement = now
        }
        guard now - lastCheck > Self.second / 10 else { return }
        lastCheck = now
        show(count, now)
        isQuiet = now - lastMovement > 2 * Self.second
        switch connection.look() {
        case .nothing: break
        case .message: isPeerDone = now - lastMovement > Self.second
        case .closed where peerStays:
            // What the peer sent last may still be on its way; it does not wait for us.
            let since = goneSince ?? now
            goneSince = since
            if now - max(since, lastMovement) > Self.second { throw .peerGone(goneText(count)) }
        case .closed: break
        }
        guard now - lastMovement < stallNanoseconds else {
            throw .stalled(
                """
                Nothing moved for \(stallNanoseconds / Self.second) s, after \(count)\(ofTotal) messages. Messages may have \
                been lost (UC and UD do not repeat them), or the two ends run with different options.
                """)
        }
    }

    private func goneText(_ count: Int) -> String {
        "The peer ended in the middle of the test, after \(count)\(ofTotal) messages; look at its output for the reason."
    }

    private var ofTotal: String { total > 0 ? " of \(total)" : "" }

    private mutating func show(_ count: Int, _ now: UInt64) {
        guard let progress, now - started > 2 * Self.second else { return }
        hasShown = true
        let seconds = (now - started) / Self.second
        progress("\r\(count)\(ofTotal) messages, \(seconds) s\u{1B}[K")
    }

    /// Takes the progress line away.
    mutating func finish() {
        if hasShown { progress?("\r\u{1B}[K") }
        hasShown = false
    }
}
