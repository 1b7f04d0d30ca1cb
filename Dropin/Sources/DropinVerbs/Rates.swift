// SPDX-License-Identifier: Apache-2.0
import VerbsABI

// Static rates of InfiniBand: codes, multiples of 2.5 Gbit/s and Mbit/s.

private struct Rate {
    let code: ibv_rate
    /// Multiple of 2.5 Gbit/s; -1 for rates that are none.
    let multiple: Int32
    let megabits: Int32
}

private let rates: [Rate] = [
    Rate(code: IBV_RATE_2_5_GBPS, multiple: 1, megabits: 2_500),
    Rate(code: IBV_RATE_5_GBPS, multiple: 2, megabits: 5_000),
    Rate(code: IBV_RATE_10_GBPS, multiple: 4, megabits: 10_000),
    Rate(code: IBV_RATE_20_GBPS, multiple: 8, megabits: 20_000),
    Rate(code: IBV_RATE_30_GBPS, multiple: 12, megabits: 30_000),
    Rate(code: IBV_RATE_40_GBPS, multiple: 16, megabits: 40_000),
    Rate(code: IBV_RATE_60_GBPS, multiple: 24, megabits: 60_000),
    Rate(code: IBV_RATE_80_GBPS, multiple: 32, megabits: 80_000),
    Rate(code: IBV_RATE_120_GBPS, multiple: 48, megabits: 120_000),
    Rate(code: IBV_RATE_14_GBPS, multiple: -1, megabits: 14_062),
    Rate(code: IBV_RATE_56_GBPS, multiple: -1, megabits: 56_250),
    Rate(code: IBV_RATE_112_GBPS, multiple: -1, megabits: 112_500),
    Rate(code: IBV_RATE_168_GBPS, multiple: -1, megabits: 168_750),
    Rate(code: IBV_RATE_25_GBPS, multiple: -1, megabits: 25_781),
    Rate(code: IBV_RATE_100_GBPS, multiple: -1, megabits: 103_125),
    Rate(code: IBV_RATE_200_GBPS, multiple: -1, megabits: 206_250),
    Rate(code: IBV_RATE_300_GBPS, multiple: -1, megabits: 309_375),
    Rate(code: IBV_RATE_28_GBPS, multiple: 11, megabits: 28_125),
    Rate(code: IBV_RATE_50_GBPS, multiple: 20, megabits: 53_125),
    Rate(code: IBV_RATE_400_GBPS, multiple: 160, megabits: 425_000),
    Rate(code: IBV_RATE_600_GBPS, multiple: 240, megabits: 637_500),
]

/// `ibv_rate_to_mult`
@c @implementation
public func ibv_rate_to_mult(_ rate: ibv_rate) -> Int32 { rates.first { $0.code == rate }?.multiple ?? -1 }

/// `mult_to_ibv_rate`
@c @implementation
public func mult_to_ibv_rate(_ multiple: Int32) -> ibv_rate {
    rates.first { $0.multiple == multiple && multiple > 0 }?.code ?? IBV_RATE_MAX
}

/// `ibv_rate_to_mbps`
@c @implementation
public func ibv_rate_to_mbps(_ rate: ibv_rate) -> Int32 { rates.first { $0.code == rate }?.megabits ?? -1 }

/// `mbps_to_ibv_rate`
@c @implementation
public func mbps_to_ibv_rate(_ megabits: Int32) -> ibv_rate {
    rates.first { $0.megabits == megabits }?.code ?? IBV_RATE_MAX
}
