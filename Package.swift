// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

/// Every Swift target: language mode 6, strict memory safety; in CI a warning is an error.
let settings: [SwiftSetting] =
    [
        .swiftLanguageMode(.v6),
        .strictMemorySafety(),
        .enableExperimentalFeature("Lifetimes"),
        .enableUpcomingFeature("ExistentialAny"),
    ] + (Context.environment["CI"] == nil ? [] : [.treatAllWarnings(as: .error)])

/// Tests talk to C memory directly and say so by reading, not by marking each use.
let testSettings: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableExperimentalFeature("Lifetimes"),
    .enableUpcomingFeature("ExistentialAny"),
]

let package = Package(
    name: "swift-verbs",
    products: [
        .library(name: "Verbs", targets: ["Verbs"]),
        .executable(name: "verbs", targets: ["VerbsCommand"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
    ],
    targets: [
        // The kernel's headers and the CRC kernel.
        .target(name: "CLinuxNet"),
        // rdma-core's headers: a header-only module that links nothing.
        .target(name: "CVerbsABI"),
        .target(name: "VerbsABI", dependencies: ["CVerbsABI"], swiftSettings: settings),
        .target(name: "RoCEWire", dependencies: ["CLinuxNet"], swiftSettings: settings),
        .target(name: "RoCETransport", dependencies: ["RoCEWire"], swiftSettings: settings),
        .target(name: "FlowSteering", dependencies: ["RoCEWire", "CLinuxNet"], swiftSettings: settings),
        .target(name: "PacketIO", dependencies: ["CLinuxNet", "RoCEWire"], swiftSettings: settings),
        .target(name: "FlowPrograms", dependencies: ["FlowSteering", "PacketIO"], swiftSettings: settings),
        .target(
            name: "FlowLending", dependencies: ["FlowSteering", "FlowPrograms", "PacketIO"], swiftSettings: settings),
        .target(name: "SystemProvider", dependencies: ["VerbsABI"], swiftSettings: settings),
        .target(
            name: "SoftProvider",
            dependencies: [
                "VerbsABI", "RoCETransport", "RoCEWire", "FlowSteering", "FlowPrograms", "PacketIO", "FlowLending",
                "CLinuxNet",
            ],
            swiftSettings: settings),
        .target(
            name: "Verbs",
            dependencies: ["VerbsABI", "FlowSteering", "SystemProvider", "SoftProvider", "CLinuxNet"],
            swiftSettings: settings),
        .target(
            name: "VerbsPerf",
            dependencies: [
                "Verbs",
                .product(name: "Histogram", package: "hdrhistogram-swift"),
            ],
            swiftSettings: settings),
        .executableTarget(
            name: "VerbsCommand",
            dependencies: [
                "Verbs", "VerbsPerf", "FlowLending", "PacketIO",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            swiftSettings: settings),

        .testTarget(
            name: "RoCEWireTests", dependencies: ["RoCEWire", "CLinuxNet"], swiftSettings: testSettings),
        .testTarget(
            name: "RoCETransportTests", dependencies: ["RoCETransport", "RoCEWire", "CVerbsABI"],
            swiftSettings: testSettings),
        .testTarget(
            name: "FlowSteeringTests", dependencies: ["FlowSteering", "FlowTraffic", "CFlowHeaders"],
            exclude: ["kernel-traffic.sh"], swiftSettings: testSettings),
        .testTarget(
            name: "FlowLendingTests",
            dependencies: ["FlowLending", "FlowSteering", "FlowTraffic", "PacketIO", "CLinuxNet", "TestNetwork"],
            swiftSettings: testSettings),
        // Rules in the structures of the C headers, filled in by the C compiler.
        .target(name: "CFlowHeaders", path: "Tests/CFlowHeaders"),
        // Rules and frames that fit them, by seed.
        .target(
            name: "FlowTraffic", dependencies: ["FlowSteering"], path: "Tests/FlowTraffic",
            swiftSettings: testSettings),
        .testTarget(
            name: "PacketIOTests", dependencies: ["PacketIO", "RoCEWire", "CLinuxNet", "TestNetwork"],
            swiftSettings: testSettings),
        // Network namespaces of a test's own.
        .target(
            name: "TestNetwork", dependencies: ["CLinuxNet"], path: "Tests/TestNetwork", swiftSettings: testSettings),
        .testTarget(
            name: "SoftProviderTests",
            dependencies: [
                "SoftEnds", "SoftPeer", "SoftProvider", "SystemProvider", "PacketIO", "RoCEWire", "CLinuxNet",
                "VerbsABI", "FlowSteering", "FlowPrograms", "FlowTraffic", "TestNetwork",
            ],
            swiftSettings: testSettings),
        // What its tests and the process that they kill have in common.
        .target(
            name: "SoftEnds", dependencies: ["SoftProvider", "VerbsABI"], path: "Tests/SoftEnds",
            swiftSettings: testSettings),
        .executableTarget(
            name: "SoftPeer", dependencies: ["SoftEnds"], path: "Tests/SoftPeer", swiftSettings: testSettings),
        // The program of the README.
        .executableTarget(
            name: "HelloVerbs", dependencies: ["Verbs"], path: "Documentation/Examples/HelloVerbs",
            swiftSettings: settings),
        .testTarget(
            name: "VerbsTests",
            dependencies: [
                "Verbs", "VerbsABI", "CVerbsABI", "FlowSteering", "FlowTraffic", "TestNetwork", "HelloVerbs",
            ],
            swiftSettings: testSettings),
        .testTarget(
            name: "VerbsPerfTests", dependencies: ["VerbsPerf", "VerbsCommand", "Verbs"], swiftSettings: testSettings),
        .testTarget(name: "TidyTests", swiftSettings: testSettings),
    ]
)

// Only Tests/Fuzzing/run sets this: the program wants libFuzzer's runtime, which the sanitizer's flags link.
if Context.environment["FUZZ"] != nil {
    package.targets += [
        .target(name: "CFuzzer", path: "Tests/Fuzzing/CFuzzer"),
        .executableTarget(
            name: "Fuzz", dependencies: ["CFuzzer", "FlowSteering", "PacketIO", "RoCETransport", "RoCEWire"],
            path: "Tests/Fuzzing/Fuzz",
            swiftSettings: testSettings),
    ]
}

// Only Benchmarks/run classifier sets this: the classifier is no product, so that its benchmark is a target beside it.
if Context.environment["CLASSIFIER_BENCHMARK"] != nil {
    package.targets.append(
        .executableTarget(
            name: "classifier", dependencies: ["Verbs", "VerbsPerf"], path: "Benchmarks/Sources/Classifier",
            swiftSettings: settings))
}
