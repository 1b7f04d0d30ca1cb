// SPDX-License-Identifier: Apache-2.0

/// Decides the fate of each frame. Pure and deterministic: the same plan gives the same decisions.
///
/// Every frame draws the same number of random values whatever comes of it, so the fate of frame `n` depends on the seed
/// and `n` alone.
package struct FaultInjector: Sendable {
    /// What happens to one frame.
    package struct Decision: Sendable, Equatable {
        package var isDropped = false
        package var isDuplicated = false
        /// The bit of the frame to turn over.
        package var corruptBit: Int?
        /// How many later frames pass before this one goes.
        package var overtakenBy: Int?
        package var isDelayed = false
    }

    package let plan: FaultPlan
    private var generator: SplitMix64

    package init(_ plan: FaultPlan) {
        self.plan = plan
        generator = SplitMix64(seed: plan.seed)
    }

    /// The fate of the next frame, of this length in bytes. A dropped frame has no other.
    package mutating func decide(byteCount: Int) -> Decision {
        let drop = generator.unit() < plan.drop
        let duplicate = generator.unit() < plan.duplicate
        let reorder = generator.unit() < plan.reorder
        let corrupt = generator.unit() < plan.corrupt
        let delay = generator.unit() < plan.delay
        let distance = Int(generator.next() % 4) + 1
        let bit = Int(generator.next() % UInt64(max(1, byteCount * 8)))
        if drop { return Decision(isDropped: true) }
        return Decision(
            isDuplicated: duplicate, corruptBit: corrupt ? bit : nil, overtakenBy: reorder ? distance : nil,
            isDelayed: delay)
    }
}

/// Sebastiano Vigna's SplitMix64: a small generator whose sequence is the same everywhere.
package struct SplitMix64: RandomNumberGenerator, Sendable {
    private var state: UInt64

    package init(seed: UInt64) { state = seed }

    package mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
        return z ^ z >> 31
    }

    /// Uniform in 0 ..< 1, by the high 53 bits.
    mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }
}
