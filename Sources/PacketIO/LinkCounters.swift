// SPDX-License-Identifier: Apache-2.0

/// What a link has done and refused, since it was made. All counts are of events, never reset.
package struct LinkCounters: Sendable, Equatable {
    package var receivedDatagrams: UInt64 = 0
    package var receivedSegments: UInt64 = 0
    package var receivedBytes: UInt64 = 0
    package var sentBursts: UInt64 = 0
    package var sentSegments: UInt64 = 0
    package var sentBytes: UInt64 = 0
    /// The kernel's send queue was full; the caller keeps the burst.
    package var sendBackpressure: UInt64 = 0
    /// Bursts that the kernel refused for good (no route, too long, forbidden) and that were dropped.
    package var sendErrors: UInt64 = 0
    /// `errno` of the last of ``sendErrors``.
    package var lastSendError: UInt64 = 0
    /// Bursts that were dropped because the kernel does not segment on this path; the transport sends them again.
    package var segmentationRefusals: UInt64 = 0
    package var receiveErrors: UInt64 = 0
    /// Longer than the receive buffer: cannot happen with UDP.
    package var receiveTruncated: UInt64 = 0
    /// Empty, or too short to name a queue pair.
    package var receiveTooShort: UInt64 = 0
    /// Runs of segments of another process that arrived here.
    package var misdelivered: UInt64 = 0
    /// Of these, handed to the process that they are for.
    package var forwarded: UInt64 = 0
    /// Not handed on: no process has that slot.
    package var forwardNoProcess: UInt64 = 0
    /// Not handed on: the queue of that process was full, or another error.
    package var forwardFailed: UInt64 = 0
    /// Handed over to this process by others.
    package var forwardedReceived: UInt64 = 0
    /// Handed over by a process that is not trusted.
    package var forwardedUntrusted: UInt64 = 0
    /// Handed over, but not well formed.
    package var forwardedMalformed: UInt64 = 0
    /// Probe datagrams of the steering answered.
    package var probesAnswered: UInt64 = 0
    /// Times that the steering table was learnt and put in place.
    package var steeringLearnt: UInt64 = 0
    /// Times that learning was begun.
    package var steeringAttempts: UInt64 = 0
    package var faultsDropped: UInt64 = 0
    package var faultsDuplicated: UInt64 = 0
    package var faultsReordered: UInt64 = 0
    package var faultsCorrupted: UInt64 = 0
    package var faultsDelayed: UInt64 = 0
    package var captureErrors: UInt64 = 0
    /// Bursts sent through memory that is shared with their receiver; part of ``sentBursts``.
    package var sharedSent: UInt64 = 0
    /// Bursts received through it; part of ``receivedDatagrams``.
    package var sharedReceived: UInt64 = 0
    /// Not sent: the receiver did not take what it has, or is gone.
    package var sharedDropped: UInt64 = 0
    /// Received, but not well formed.
    package var sharedMalformed: UInt64 = 0
    /// Memory shared with another process, since the start.
    package var sharedJoined: UInt64 = 0
    /// Given up, because what the other process wrote cannot be, or it stopped reading.
    package var sharedBroken: UInt64 = 0
    /// Wakings of a receiver that slept.
    package var sharedWakes: UInt64 = 0
    /// Frames that came and went by AF_XDP; part of ``receivedDatagrams`` and ``sentSegments``.
    package var xdpReceived: UInt64 = 0
    package var xdpSent: UInt64 = 0
    /// Frames that came so but are not well formed.
    package var xdpRefused: UInt64 = 0
    /// Frames that the kernel had no chunk or ring place for.
    package var xdpDropped: UInt64 = 0
    /// Times that the AF_XDP socket had no room to send.
    package var xdpFull: UInt64 = 0
    /// Frames that came and went by AF_PACKET.
    package var packetReceived: UInt64 = 0
    package var packetSent: UInt64 = 0
    /// Frames that came so but are not well formed.
    package var packetRefused: UInt64 = 0
    /// Frames that the kernel had no room for in the ring.
    package var packetDropped: UInt64 = 0

    package init() {}

    /// Name and value of each, in a fixed order; the names are stable.
    package var named: [(name: String, value: UInt64)] {
        [
            ("link_rx_datagrams", receivedDatagrams), ("link_rx_segments", receivedSegments),
            ("link_rx_bytes", receivedBytes), ("link_tx_bursts", sentBursts), ("link_tx_segments", sentSegments),
            ("link_tx_bytes", sentBytes), ("link_tx_backpressure", sendBackpressure),
            ("link_tx_errors", sendErrors), ("link_tx_last_errno", lastSendError),
            ("link_tx_segmentation_refused", segmentationRefusals), ("link_rx_errors", receiveErrors),
            ("link_rx_truncated", receiveTruncated), ("link_rx_too_short", receiveTooShort),
            ("link_rx_misdelivered", misdelivered), ("link_forwarded", forwarded),
            ("link_forward_no_process", forwardNoProcess), ("link_forward_failed", forwardFailed),
            ("link_rx_forwarded", forwardedReceived), ("link_rx_forwarded_untrusted", forwardedUntrusted),
            ("link_rx_forwarded_malformed", forwardedMalformed), ("link_probes_answered", probesAnswered),
            ("link_steering_learnt", steeringLearnt), ("link_steering_attempts", steeringAttempts),
            ("link_fault_dropped", faultsDropped), ("link_fault_duplicated", faultsDuplicated),
            ("link_fault_reordered", faultsReordered), ("link_fault_corrupted", faultsCorrupted),
            ("link_fault_delayed", faultsDelayed), ("link_capture_errors", captureErrors),
            ("link_shared_tx_bursts", sharedSent), ("link_shared_rx_bursts", sharedReceived),
            ("link_shared_dropped", sharedDropped), ("link_shared_malformed", sharedMalformed),
            ("link_shared_joined", sharedJoined), ("link_shared_broken", sharedBroken),
            ("link_shared_wakes", sharedWakes), ("link_xdp_rx_frames", xdpReceived), ("link_xdp_tx_frames", xdpSent),
            ("link_xdp_rx_refused", xdpRefused), ("link_xdp_rx_dropped", xdpDropped), ("link_xdp_tx_full", xdpFull),
            ("link_packet_rx_frames", packetReceived), ("link_packet_tx_frames", packetSent),
            ("link_packet_rx_refused", packetRefused), ("link_packet_rx_dropped", packetDropped),
        ]
    }
}
