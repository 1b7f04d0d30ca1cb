// SPDX-License-Identifier: Apache-2.0
import PacketIO

/// Which sockets are lent to whom, as far as they still are there: a file beside the steerd's socket, so that the next steerd knows it.
///
/// Whether a socket is there the kernel says. A borrower that dies has given its sockets back, and one that hands its on, or closes the
/// connection, has not.
struct LentSockets {
    private static let version = "verbs-steerd lent 1"

    private let path: String
    /// The boot and the network namespace in which the numbers mean something.
    private let place: String
    /// Users by the inode number of the socket.
    private var holders: [UInt64: UInt32] = [:]

    /// Reads what an earlier steerd of the path has lent.
    /// - Parameter namespace: the number of the network namespace.
    init(besides socketPath: String, namespace: UInt64?) throws(PacketIOError) {
        path = socketPath + ".lent"
        let boot = try TextFile.read("/proc/sys/kernel/random/boot_id") ?? ""
        place = "\(boot.prefix { $0 != "\n" }) \(namespace ?? 0)"
        if let text = try TextFile.read(path) { holders = Self.holders(in: text, place: place) }
        // Also for the error, if it cannot be written.
        try save()
    }

    /// The lines behind the heading; none of another boot or namespace, or of another version.
    static func holders(in text: String, place: String) -> [UInt64: UInt32] {
        let lines = text.split(separator: "\n")
        guard lines.count >= 2, lines[0] == version, lines[1] == place else { return [:] }
        var result: [UInt64: UInt32] = [:]
        for line in lines[2...] {
            let words = line.split(separator: " ")
            guard words.count == 2, let inode = UInt64(words[0]), let uid = UInt32(words[1]) else { continue }
            result[inode] = uid
        }
        return result
    }

    /// Sockets that a user has now.
    mutating func count(of uid: UInt32) throws(PacketIOError) -> Int {
        let living = try PacketSocketList.inodes()
        holders = holders.filter { living.contains($0.key) }
        return holders.values.count { $0 == uid }
    }

    /// Notes a socket before it is lent: it is counted even if this process dies in between.
    mutating func add(_ socket: borrowing UnboundPacketSocket, of uid: UInt32) throws(PacketIOError) {
        guard let inode = socket.inode else { throw .invalid("the kernel does not name the socket") }
        holders[inode] = uid
        try save()
    }

    private func save() throws(PacketIOError) {
        let lines = holders.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        try TextFile.replace(path, with: ([Self.version, place] + lines).joined(separator: "\n") + "\n")
    }
}
