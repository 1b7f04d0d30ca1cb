// SPDX-License-Identifier: Apache-2.0
import Glibc

/// What a raw packet run does while there is nothing to poll, and how it ends.
struct RawWatch {
    private static let second: UInt64 = 1_000_000_000
    /// After the client's last word, frames may still be in the rings.
    private static let restNanoseconds: UInt64 = 100_000_000

    private let link: PeerConnection?
    private let stallNanoseconds: UInt64
    private var idle: UInt32 = 0
    private var lastCount = -1
    private var lastMovement = monotonicNanoseconds()
    private var lastLook: UInt64 = 0
    private var doneSince: UInt64?

    init(link: PeerConnection?, stallSeconds: Int) {
        self.link = link
        stallNanoseconds = UInt64(stallSeconds) * Self.second
    }

    @inline(__always)
    mutating func moved() { idle = 0 }

    /// A poll found nothing. `true` when the client has sent all and what was on its way has had its time.
    mutating func isIdle(_ count: Int) throws(PerfError) -> Bool {
        idle &+= 1
        guard idle > 16 else { return false }
        sched_yield()
        guard idle % 16 == 0 else { return false }
        let now = monotonicNanoseconds()
        if count != lastCount {
            lastCount = count
            lastMovement = now
        }
        if let doneSince, now - max(doneSince, lastMovement) > Self.restNanoseconds { return true }
        if doneSince == nil, let link, now - lastLook > 1_000_000 {
            lastLook = now
            switch link.look() {
            case .nothing: break
            case .message: doneSince = now
            case .closed:
                throw .peerGone("The client ended in the middle of the test; look at its output for the reason.")
            }
        }
        guard now - lastMovement < stallNanoseconds else {
            throw .stalled("Nothing moved for \(stallNanoseconds / Self.second) s, after \(count) frames.")
        }
        return false
    }
}
