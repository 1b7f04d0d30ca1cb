// SPDX-License-Identifier: Apache-2.0
// Built and run by the stage `sanitizers`: two threads write to one variable, and the thread sanitizer must say so.
import Foundation

nonisolated(unsafe) let shared = UnsafeMutablePointer<Int>.allocate(capacity: 1)
shared.initialize(to: 0)
let threads = (0..<2).map { _ in
    Thread { @Sendable in
        for _ in 0..<1_000 { shared.pointee += 1 }
    }
}
for thread in threads { thread.start() }
while !threads.allSatisfy(\.isFinished) { Thread.sleep(forTimeInterval: 0.01) }
