// SPDX-License-Identifier: Apache-2.0
import Verbs

/// Run it twice, on one machine or two, and give each the line that the other prints: they greet each other.
@main struct HelloVerbs {
    static func main() throws {
        let domain = try Device.best.open().makeProtectionDomain()
        let pool = try domain.makeBufferPool(count: 2, size: 4096)
        let completions = try domain.context.makeCompletionQueue(capacity: 256)
        let queuePair = try domain.makeQueuePair(.reliableConnected, completions: completions)

        print(try queuePair.prepare())  // our end, for the other side
        guard let incoming = pool.take(), var outgoing = pool.take() else { return }
        try queuePair.receive(incoming).orThrow()
        guard let line = readLine(), let peer = Endpoint(line) else { return print("that is no endpoint") }
        var options = ConnectionOptions()
        options.timeout = 20  // four seconds for each of eight tries: the other side pastes by hand too
        try queuePair.connect(to: peer, options: options)

        outgoing.fill(from: "Hello from queue pair \(queuePair.number)".utf8)
        try queuePair.post(.send, outgoing).orThrow()  // `outgoing` is the device's now: using it does not compile

        var expected = 2  // our send, and the other side's greeting
        while expected > 0 {
            guard let completion = try completions.next() else { continue }
            guard completion.isSuccess else { return print(completion.workCompletion) }
            let isGreeting = completion.opcode == .receive
            if let buffer = completion.takeBuffer(), isGreeting {
                print(String(decoding: buffer.copyBytes(), as: UTF8.self))
            }
            expected -= 1
        }
    }
}
