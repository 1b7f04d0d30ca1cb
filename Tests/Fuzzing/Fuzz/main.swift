// SPDX-License-Identifier: Apache-2.0
//
// Fuzz [OPTION of libFuzzer | FILE]...      with the target's name in FUZZ_TARGET, so that libFuzzer can start the program again
// Fuzz --list                               the names of the targets
// Fuzz --seeds FOLDER CAPTURE...            writes the target's seeds, made of the captures' frames

import Foundation

let arguments = CommandLine.arguments
if arguments.dropFirst().first == "--list" {
    for target in FuzzTarget.all { print(target.name) }
    exit(0)
}
guard let target = FuzzTarget.named(ProcessInfo.processInfo.environment["FUZZ_TARGET"] ?? "") else {
    print("FUZZ_TARGET must be one of: " + FuzzTarget.all.map(\.name).joined(separator: " "))
    exit(2)
}
if arguments.dropFirst().first == "--seeds", arguments.count > 2 {
    let frames = try arguments.dropFirst(3).flatMap { try CaptureFile.frames(of: URL(filePath: $0)) }
    for (index, seed) in target.seeds(frames).enumerated() {
        try Data(seed).write(to: URL(filePath: arguments[2]).appending(path: "seed-\(index)"))
    }
    exit(0)
}
exit(target.fuzz())
