// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import PacketIO

@Suite("The kernel's list of packet sockets") struct PacketSocketListTests {
    /// Lines as Linux 6.18 writes them.
    private static let heading = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"
    private static func line(_ inode: Int) -> String {
        "00000000a49cf6eb 3      3    0003   2     1 0      0      \(inode)\n"
    }

    private func inodes(_ readings: [String]) throws -> Set<UInt64> {
        var next = readings.makeIterator()
        return try PacketSocketList.inodes { () throws(PacketIOError) in next.next() ?? readings[readings.count - 1] }
    }

    @Test("A socket that another one's end hid from a reading is found")
    func hidden() throws {
        let all = Self.heading + [5, 6, 7].map(Self.line).joined()
        // 5 ended behind the first piece, and 6 took its place there.
        let hiding = Self.heading + [5, 7].map(Self.line).joined()
        let after = Self.heading + [6, 7].map(Self.line).joined()
        #expect(try inodes([all]) == [5, 6, 7])
        #expect(try inodes([hiding, after]) == [6, 7])
        #expect(try inodes([Self.heading]) == [])
    }

    @Test("A table that never is the same, or is none, is an error: a socket more is not lent for that")
    func errors() {
        var number = 0
        #expect(throws: PacketIOError.self) {
            try PacketSocketList.inodes { () throws(PacketIOError) in
                number += 1
                return Self.heading + Self.line(number)
            }
        }
        #expect(throws: PacketIOError.self) { try inodes([Self.heading + "garbage\n"]) }
        #expect(throws: PacketIOError.self) { try PacketSocketList.inodes { () throws(PacketIOError) in nil } }
    }
}
