// SPDX-License-Identifier: Apache-2.0
import Glibc
import SoftEnds

// The other end of a test's connection, in a process of its own that may be killed. It writes its description on a line,
// reads that of the test, connects, says so, and polls until its input ends.
//
// With an argument, a number: how many bytes so many idle queue pairs take each.
let end = try SoftEnd(byteCount: 1 << 20)
if CommandLine.arguments.count > 1 {
    print(try end.bytesPerQueuePair(count: Int(CommandLine.arguments[1]) ?? 0))
    exit(0)
}
print(end.description.text)
fflush(nil)
guard let line = readLine(), let peer = RemoteEnd(line) else { exit(2) }
try end.connect(to: peer)
for index in 0..<32 { _ = end.postReceive(id: UInt64(index), offset: 0, length: 4096) }
print("connected")
fflush(nil)

var input = pollfd(fd: 0, events: Int16(POLLIN), revents: 0)
while poll(&input, 1, 0) == 0 {
    for completion in end.completions(1, within: 0.001) {
        _ = end.postReceive(id: completion.wr_id, offset: 0, length: 4096)
    }
}
exit(0)
