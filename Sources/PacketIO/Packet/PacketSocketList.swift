// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// The packet sockets that there are, by the kernel's word: whoever holds them, and whether a process has received them yet.
package enum PacketSocketList {
    /// More would mean that others open and close packet sockets all the time.
    private static let readCountMax = 16

    /// The inode numbers of all packet sockets of the calling thread's network namespace.
    package static func inodes() throws(PacketIOError) -> Set<UInt64> {
        try inodes { () throws(PacketIOError) in
            try TextFile.read("/proc/thread-self/net/packet")
        }
    }

    /// The same by any way to read the table.
    ///
    /// The kernel writes the table piece by piece, and finds its place by counting: a socket that ends between two pieces hides another.
    /// That one is still in the next reading, and the one that ended is not: so two readings alike have all of them.
    static func inodes(_ read: () throws(PacketIOError) -> String?) throws(PacketIOError) -> Set<UInt64> {
        var previous: [UInt64]?
        for _ in 0..<readCountMax {
            guard let text = try read() else { throw .invalid("/proc/net/packet is not there: mount /proc") }
            let found = try parse(text)
            if found == previous { return Set(found) }
            previous = found
        }
        throw .invalid("packet sockets come and go too fast to be counted: try again")
    }

    /// The last column, of the lines behind the heading.
    private static func parse(_ text: String) throws(PacketIOError) -> [UInt64] {
        var result: [UInt64] = []
        for line in text.split(separator: "\n").dropFirst() {
            guard let inode = line.split(separator: " ").last.flatMap({ UInt64($0) }) else {
                throw .invalid("/proc/net/packet has a line that is none of the kernel's: '\(line)'")
            }
            result.append(inode)
        }
        return result
    }
}
