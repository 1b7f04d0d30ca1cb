// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import FlowLending
import Glibc
import PacketIO

struct SteerDaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "steerd",
        abstract: "Lend packet sockets to processes without privileges, by user and flow.",
        discussion: """
            Opens AF_PACKET sockets for users that an access file names, each with a filter for what the user may receive, and passes \
            them over a Unix socket. It needs CAP_NET_RAW alone; who asks needs nothing. Programs find it by themselves at the \
            default path, or by VERBS_STEERD. It may end and start again at any time: sockets that are lent are \
            not touched by that. A new access file is read at the start.

            A line of the access file is a user, an interface, and the widest rule that the user may ask for there:
              user 1000  interface eth0 send  ip udp dst-port 7000
              user alice interface eth0 send from own  eth type 0x88b5
            Rules name eth, ip, ip6, tcp and udp, see `verbs steer --help`. The word `send` says that it is known that a lent socket \
            can send any frame on every interface: the kernel has no way to forbid it. `from` and sources, such as `own,10.0.0.0/8`, have the \
            library of the user's programs send in no other name; a program that does not use the library is not held by that.

            Examples:
              verbs steerd --access /etc/verbs/steerd.access
              verbs steerd --allow 'user 1000 interface eth0 send ip udp dst-port 7000'
              verbs steerd --access /etc/verbs/steerd.access --check
              VERBS_STEERD=/tmp/steerd.sock verbs steer -d eth0 'ip udp dst-port 7000'
            """)

    @Option(name: .long, help: ArgumentHelp("The file of who may have what.", valueName: "file"))
    var access: String?

    @Option(name: .long, help: ArgumentHelp("A line as of the file. May be given several times.", valueName: "line"))
    var allow: [String] = []

    @Option(name: .long, help: ArgumentHelp("Where to listen.", valueName: "path"))
    var socket = LendingClient.defaultPath

    @Flag(name: .long, help: "Read the access file, show what it says, and end.")
    var check = false

    func validate() throws {
        if access == nil, allow.isEmpty {
            throw ValidationError("Who may have what? Name a file with --access, or give --allow.")
        }
    }

    func run() throws {
        let list = try accessList()
        if check {
            for entry in list.entries { print(entry) }
            return
        }
        if !PacketIO.Capability.missing(of: [.netRaw]).isEmpty {
            CommandOutput.note(
                "steerd opens sockets for others: it needs CAP_NET_RAW. Run it as root, or give it the capability.")
            throw ExitCode(77)
        }
        if socket == LendingClient.defaultPath { _ = unsafe mkdir("/run/verbs", 0o755) }
        do throws(PacketIOError) {
            let server = try LendingServer(path: socket, access: list) { CommandOutput.note("steerd: \($0)") }
            StopSignal.listen()
            CommandOutput.note("steerd: listens at \(socket); \(list.entries.count) lines of access")
            while !StopSignal.isGiven { server.serve(milliseconds: 200) }
            _ = unsafe unlink(socket)
        } catch {
            CommandOutput.note("\(error)")
            throw ExitCode(70)
        }
    }

    /// The lines of the file, and behind them those of the command line.
    private func accessList() throws -> AccessList {
        var lines = ""
        if let access {
            guard let text = Self.contents(of: access) else {
                throw ValidationError("--access \(access): \(unsafe String(cString: strerror(errno))).")
            }
            lines = text
        }
        do throws(AccessList.Failure) {
            if allow.isEmpty { return try AccessList(parsing: lines, userID: Self.userID) }
            if !lines.isEmpty, !lines.hasSuffix("\n") { lines += "\n" }
            return try AccessList(parsing: lines + allow.joined(separator: "\n"), userID: Self.userID)
        } catch {
            let place = access.map { allow.isEmpty ? $0 : "\($0) with --allow behind it" } ?? "--allow"
            throw ValidationError("\(place), \(error).")
        }
    }

    private static func contents(of path: String) -> String? {
        guard let file = unsafe fopen(path, "re") else { return nil }
        defer { unsafe _ = fclose(file) }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = unsafe fread(&chunk, 1, chunk.count, file)
            if count == 0 { return unsafe ferror(file) == 0 ? String(decoding: bytes, as: UTF8.self) : nil }
            bytes += chunk[..<count]
        }
    }

    private static func userID(_ name: String) -> UInt32? {
        // One thread; the entry is read at once.
        unsafe getpwnam(name).map { unsafe $0.pointee.pw_uid }
    }
}
