// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// A package of its own: what is measured here must not weigh on the build of the library.
let package = Package(
    name: "swift-verbs-benchmarks",
    products: [
        // Loaded as libibverbs.so.1 by the Swift side of the instruction counts.
        .library(name: "CountingVerbs", type: .dynamic, targets: ["CountingLibrary"])
    ],
    dependencies: [.package(name: "swift-verbs", path: "..")],
    targets: [
        .target(name: "CountingVerbs"),
        .target(name: "CountingLibrary", dependencies: ["CountingVerbs"]),
        .executableTarget(name: "instructions-c", dependencies: ["CountingVerbs"], path: "Sources/InstructionsC"),
        .executableTarget(
            name: "instructions-swift", dependencies: [.product(name: "Verbs", package: "swift-verbs")],
            path: "Sources/InstructionsSwift",
            swiftSettings: [.swiftLanguageMode(.v6), .strictMemorySafety()]),
        .executableTarget(name: "udp-peer", path: "Sources/UDPPeer"),
    ]
)
