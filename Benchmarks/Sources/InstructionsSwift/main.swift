// SPDX-License-Identifier: Apache-2.0
//
// The Swift side of the instruction counts: the same loops as instructions-c, over `Verbs`.
//
//   instructions-swift CASE OPERATIONS
//
// The device is whatever `Device.named("counting0")` finds: run with the counting library as libibverbs.so.1.

let arguments = CommandLine.arguments
guard arguments.count == 3, let operations = UInt64(arguments[2]), operations > 0,
    operations % UInt64(batchSize) == 0
else {
    fail("usage: instructions-swift CASE OPERATIONS (a multiple of \(batchSize))")
}

do {
    let fixture = try Fixture()
    switch arguments[1] {
    case "send-raw": try fixture.sendRaw(operations)
    case "send-owned": try fixture.sendOwned(operations)
    case "batch-raw": try fixture.batchRaw(operations)
    case "batch-owned": try fixture.batchOwned(operations)
    case "receive-raw": try fixture.receiveRaw(operations)
    case "receive-owned": try fixture.receiveOwned(operations)
    default: fail("no case \(arguments[1])")
    }
} catch {
    fail("\(error)")
}
