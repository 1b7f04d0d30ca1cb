// SPDX-License-Identifier: Apache-2.0
import ArgumentParser
import FlowLending
import Glibc
import PacketIO

struct SteerDaemonCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "steerd",
        abstract: "Lend packet and AF_XDP sockets to processes without privileges, by user and flow.",
        discussion: """
            Opens AF_PACKET sockets for users that an access file names, each with a filter for what the user may receive, and passes \
            them over a Unix socket; or AF_XDP sockets, with an XDP program of its own. It needs CAP_NET_RAW, and CAP_NET_ADMIN and CAP_BPF \
            for XDP; who asks needs nothing. Programs find it by themselves at the \
            default path, or by VERBS_STEERD. It may end and start again at any time: sockets that are lent are \
            not touched by that. SIGHUP has it read the access file again; one with an error changes nothing.

            A line of the access file is a user, an interface, and the widest rule that the user may ask for there; or how many sockets \
            each user, or this one, may have at a time:
              user 1000  interface eth0 send  ip udp dst-port 7000
              user alice interface eth0 send from own  eth type 0x88b5
              user bob   interface eth0 xdp   ip udp dst-port 7001
              user alice sockets 32
              sockets 16
            Rules name eth, ip, ip6, tcp and udp, see `verbs steer --help`. The word `send` says that it is known that a lent socket \
            can send any frame on every interface: the kernel has no way to forbid it. `from` and sources, such as `own,10.0.0.0/8`, have the \
            library of the user's programs send in no other name; a program that does not use the library is not held by that. \
            `xdp` lends AF_XDP sockets, which receive only.

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
        let list: AccessList
        do throws(AccessError) {
            list = try accessList()
        } catch {
            throw ValidationError("\(error.reason).")
        }
        if check {
            for line in list.lines { print(line) }
            return
        }
        if !PacketIO.Capability.missing(of: [.netRaw]).isEmpty {
            CommandOutput.note(
                "steerd opens sockets for others: it needs CAP_NET_RAW. Run it as root, or give it the capability.")
            throw ExitCode(77)
        }
        if socket == LendingClient.defaultPath { _ = unsafe mkdir("/run/verbs", 0o755) }
        ReloadSignal.listen()
        do throws(PacketIOError) {
            let server = try LendingServer(path: socket, access: list) { CommandOutput.note("steerd: \($0)") }
            StopSignal.listen()
            CommandOutput.note("steerd: listens at \(socket); \(list.entries.count) lines of access")
            while !StopSignal.isGiven {
                server.serve(milliseconds: 200)
                if ReloadSignal.take() { reload(server) }
            }
            _ = unsafe unlink(socket)
        } catch {
            CommandOutput.note("\(error)")
            throw ExitCode(70)
        }
    }

    /// Reads the lines again. Errors leave the old ones in force: nobody loses or gets anything by half a file.
    private func reload(_ server: LendingServer) {
        do throws(AccessError) {
            let list = try accessList()
            server.access = list
            CommandOutput.note("steerd: read the access lines again; \(list.entries.count) lines of access")
        } catch {
            CommandOutput.note("steerd: the old access lines stay in force: \(error.reason)")
        }
    }

    /// Why there are no lines of access.
    private struct AccessError: Error {
        let reason: String
    }

    /// The lines of the file, and behind them those of the command line.
    private func accessList() throws(AccessError) -> AccessList {
        var lines = ""
        if let access {
            do throws(PacketIOError) {
                guard let text = try TextFile.read(access) else {
                    throw PacketIOError.invalid("there is no such file")
                }
                lines = text
            } catch {
                throw AccessError(reason: "--access \(access): \(error)")
            }
        }
        do throws(AccessList.Failure) {
            if allow.isEmpty { return try AccessList(parsing: lines, userID: Self.userID) }
            if !lines.isEmpty, !lines.hasSuffix("\n") { lines += "\n" }
            return try AccessList(parsing: lines + allow.joined(separator: "\n"), userID: Self.userID)
        } catch {
            let place = access.map { allow.isEmpty ? $0 : "\($0) with --allow behind it" } ?? "--allow"
            throw AccessError(reason: "\(place), \(error)")
        }
    }

    private static func userID(_ name: String) -> UInt32? {
        // One thread; the entry is read at once.
        unsafe getpwnam(name).map { unsafe $0.pointee.pw_uid }
    }
}
