// SPDX-License-Identifier: Apache-2.0
import CFuzzer

/// Something that takes any bytes and must survive them. One file in `Targets`, and a line in ``all``.
struct FuzzTarget: Sendable {
    /// The argument of `Tests/Fuzzing/run`.
    let name: String
    /// Inputs to start from, made of frames that the kernel sent.
    let seeds: @Sendable ([[UInt8]]) -> [[UInt8]]
    /// Runs one input. Whatever must not be ends the process: a trap, ``require(_:_:)``, or a sanitizer.
    let run: @Sendable (UnsafeRawBufferPointer) -> Void

    static let all: [FuzzTarget] = [.frames, .engine, .rings, .communication, .sharedRing, .flowRules, .sources]

    static func named(_ name: String) -> FuzzTarget? { all.first { $0.name == name } }

    /// The target of this process: libFuzzer's callback has no argument for it.
    nonisolated(unsafe) private static var selected: FuzzTarget?

    /// Hands the process to libFuzzer, which reads the arguments behind the program's name.
    func fuzz() -> Int32 {
        Self.selected = self
        var count = CommandLine.argc
        var arguments: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>? = CommandLine.unsafeArgv
        return LLVMFuzzerRunDriver(&count, &arguments) { bytes, count in
            FuzzTarget.selected?.run(UnsafeRawBufferPointer(start: bytes, count: count))
            return 0
        }
    }
}

/// What must hold, also in a release build.
func require(_ condition: Bool, _ message: @autoclosure () -> String, line: UInt = #line, file: StaticString = #file) {
    if !condition { fatalError(message(), file: file, line: line) }
}
