// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// How fast a port is, in the codes of the specification: programs choose transports and protocols by it.
struct PortSpeed: Equatable {
    /// `ibv_port_attr.active_width`: 1 for one lane, 2 for four.
    let width: UInt8
    /// `ibv_port_attr.active_speed`: a bit for each rate of a lane, from 2.5 Gb/s (SDR) on.
    let speed: UInt8

    private static let one: UInt8 = 1
    private static let four: UInt8 = 2

    /// Of an Ethernet link, as the kernel's `ib_get_eth_speed` says it of its devices.
    init(megabits: Int) {
        (width, speed) =
            switch megabits {
            case ...1_000: (Self.one, 1)  // SDR
            case ...10_000: (Self.one, 8)  // FDR10
            case ...20_000: (Self.four, 2)  // DDR
            case ...25_000: (Self.one, 32)  // EDR
            case ...40_000: (Self.four, 8)
            case ...100_000: (Self.four, 32)
            case ...200_000: (Self.four, 64)  // HDR
            default: (Self.four, 128)  // NDR
            }
    }

    /// What a device of 100 Gb/s has: what processes of one host were measured to exchange.
    static let loopback = PortSpeed(megabits: 100_000)

    /// Of an interface as its driver tells it; where it tells none, the kernel assumes 1 Gb/s for its devices.
    static func of(interface name: String) -> PortSpeed {
        if name == "lo" { return loopback }
        let descriptor = unsafe open("/sys/class/net/\(name)/speed", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return PortSpeed(megabits: 0) }
        defer { close(descriptor) }
        var text = [UInt8](repeating: 0, count: 16)
        let count = unsafe read(descriptor, &text, text.count)
        let digits = text.prefix(max(0, count)).prefix { $0 != UInt8(ascii: "\n") }
        return PortSpeed(megabits: Int(String(decoding: digits, as: UTF8.self)) ?? 0)
    }
}
