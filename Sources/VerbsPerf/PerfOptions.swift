// SPDX-License-Identifier: Apache-2.0

/// What the user asked for, before it is judged: `nil` is "not given". Names and meanings are perftest's.
package struct PerfOptions: Equatable, Sendable {
    package var test: PerfTest
    /// The server's host name or address; `nil` makes this end the server.
    package var host: String?

    /// Device name (`-d`).
    package var device: String?
    /// Port of the device (`-i`).
    package var devicePort = 1
    /// TCP port of the handshake (`-p`).
    package var tcpPort = 18515
    /// Message size in bytes (`-s`).
    package var size: Int?
    /// Messages for each queue pair (`-n`).
    package var iterations: Int?
    /// Sizes 2, 4, ... 8 MiB (`-a`).
    package var allSizes = false
    package var connection = PerfConnection.rc
    /// Index in the GID table (`-x`); `nil` takes the port's best GID.
    package var gidIndex: Int?
    /// Path MTU in bytes (`-m`).
    package var mtu: Int?
    /// Seconds to run instead of a number of iterations (`-D`).
    package var durationSeconds: Int?
    /// Seconds at both ends of a timed run that are not counted (`-f`).
    package var marginSeconds: Int?
    package var bidirectional = false
    package var queuePairs = 1
    package var transmitDepth: Int?
    package var receiveDepth: Int?
    /// One completion for this many work requests (`-Q`).
    package var completionModeration: Int?
    package var inlineSize: Int?
    package var useEvents = false
    package var serviceLevel = 0
    package var trafficClass = 0
    /// Acknowledgement timeout, 4.096 us * 2^n (`-u`).
    package var timeoutExponent = 14
    package var atomic = PerfAtomic.fetchAndAdd
    /// READ and ATOMIC requests in flight (`-o`).
    package var outstandingReads: Int?
    /// Work requests posted with one doorbell (`-l`).
    package var postList = 1
    package var receivePostList = 1
    package var useSharedReceiveQueue = false
    package var reportGigabits = false
    package var skipPeak = false
    /// Let the connection manager connect the queue pairs, and find the peer through it (`-R`).
    package var useConnectionManager = false
    package var bandwidthLimit: Double?
    package var messageRateLimit: Double?
    /// Check the bytes that arrive. Both ends must be this program.
    package var validate = false
    /// Seconds without any progress after which the test gives up.
    package var stallSeconds = 60

    package init(test: PerfTest, host: String? = nil) {
        self.test = test
        self.host = host
    }
}
