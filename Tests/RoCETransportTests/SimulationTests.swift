// SPDX-License-Identifier: Apache-2.0
import Testing

#if canImport(Glibc)
    import Glibc
#endif

/// How many seeds to run; `VERBS_SIMULATION_SEEDS` overrides, `VERBS_SIMULATION_FIRST` says where to start.
enum SimulationSeeds {
    static func range(_ count: Int) -> Range<UInt64> {
        let first = getenv("VERBS_SIMULATION_FIRST").flatMap { UInt64(String(cString: $0)) } ?? 0
        let count = getenv("VERBS_SIMULATION_SEEDS").flatMap { Int(String(cString: $0)) } ?? count
        return first..<first + UInt64(count)
    }
}

@Suite("Simulation") struct SimulationTests {
    @Test(
        "Reliable connections do what was asked, once and in order, whatever the network does", .timeLimit(.minutes(30))
    )
    func reliable() {
        var failures = 0
        for seed in SimulationSeeds.range(1_000) where failures < 3 {
            let workload = ReliableWorkload(options: WorkloadOptions(seed: seed))
            workload.run()
            if workload.findings.isEmpty { continue }
            failures += 1
            Issue.record("\(workload.options)\n\(workload.findings.texts.joined(separator: "\n"))")
        }
    }
}
