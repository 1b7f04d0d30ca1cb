// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import SoftProvider

@Suite("Speed of a port") struct PortSpeedTests {
    /// Widths and speeds are those of `ib_get_eth_speed` in the kernel.
    @Test(
        "An Ethernet speed becomes the width and speed that the kernel gives it",
        arguments: [
            (-1, 1, 1), (1_000, 1, 1), (10_000, 1, 8), (20_000, 2, 2), (25_000, 1, 32), (40_000, 2, 8),
            (100_000, 2, 32),
        ] as [(Int, UInt8, UInt8)])
    func codes(megabits: Int, width: UInt8, speed: UInt8) {
        let port = PortSpeed(megabits: megabits)
        #expect(port.width == width)
        #expect(port.speed == speed)
    }

    @Test("An interface that is not there is as slow as one that does not say")
    func unknown() { #expect(PortSpeed.of(interface: "none-such") == PortSpeed(megabits: 0)) }
}
