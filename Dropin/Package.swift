// swift-tools-version: 6.2
// SPDX-License-Identifier: Apache-2.0
import PackageDescription

// libibverbs.so.1 and librdmacm.so.1 over the software device, for programs that were not written for it. `Dropin/build` builds them:
// a plain `swift build` here compiles the same code, but only that script knows the linker's flags (soname, symbol versions, no Swift
// runtime beside the library), which must reach no other product. For the same reason this is a package of its own.
//
// It compiles the device's targets itself, from `Device`, a link to ../Sources, instead of depending on the package above. Their
// interfaces are `package`: they reach another package only if they were made public, which would promise users of the library more
// than is meant, or with `-package-name` and the name that SwiftPM derives from the folder of the checkout. The objects could not be
// shared anyway, since those of a dependency are built with its own flags. And nothing of the network is needed.
let settings: [SwiftSetting] =
    [
        .swiftLanguageMode(.v6),
        .strictMemorySafety(),
        .enableExperimentalFeature("Lifetimes"),
        .enableUpcomingFeature("ExistentialAny"),
    ] + (Context.environment["CI"] == nil ? [] : [.treatAllWarnings(as: .error)])

let package = Package(
    name: "verbs-dropin",
    products: [
        .library(name: "ibverbs", type: .dynamic, targets: ["DropinVerbs"])
    ],
    targets: [
        .target(name: "CLinuxNet", path: "Device/CLinuxNet"),
        .target(name: "CVerbsABI", path: "Device/CVerbsABI"),
        .target(name: "VerbsABI", dependencies: ["CVerbsABI"], path: "Device/VerbsABI", swiftSettings: settings),
        .target(name: "RoCEWire", dependencies: ["CLinuxNet"], path: "Device/RoCEWire", swiftSettings: settings),
        .target(
            name: "RoCETransport", dependencies: ["RoCEWire"], path: "Device/RoCETransport", swiftSettings: settings),
        .target(
            name: "FlowSteering", dependencies: ["RoCEWire", "CLinuxNet"], path: "Device/FlowSteering",
            swiftSettings: settings),
        .target(
            name: "PacketIO", dependencies: ["CLinuxNet", "RoCEWire"], path: "Device/PacketIO",
            swiftSettings: settings),
        .target(
            name: "FlowPrograms", dependencies: ["FlowSteering", "PacketIO"], path: "Device/FlowPrograms",
            swiftSettings: settings),
        .target(
            name: "FlowLending", dependencies: ["FlowSteering", "FlowPrograms", "PacketIO"], path: "Device/FlowLending",
            swiftSettings: settings),
        .target(
            name: "SoftProvider",
            dependencies: [
                "VerbsABI", "RoCETransport", "RoCEWire", "FlowSteering", "FlowPrograms", "PacketIO", "FlowLending",
                "CLinuxNet",
            ],
            path: "Device/SoftProvider", swiftSettings: settings),

        // The exported functions: each is a call of the device behind it.
        .target(name: "CDropinVerbs", exclude: ["libibverbs.symbols"]),
        .target(
            name: "DropinVerbs", dependencies: ["CDropinVerbs", "SoftProvider", "VerbsABI", "PacketIO", "CLinuxNet"],
            swiftSettings: settings),
    ]
)
