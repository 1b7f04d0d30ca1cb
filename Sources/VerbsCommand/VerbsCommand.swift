// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

@main
struct VerbsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "verbs",
        abstract: "RDMA verbs on any Linux machine.",
        discussion: """
            Works on the RDMA devices of the kernel (network adapters, rdma_rxe), and on every other machine on an \
            embedded software device that speaks RoCE v2 over UDP port 4791.

            Examples:
              verbs devices                      what there is
              verbs doctor                       what is missing, and what to do about it
              verbs perf send-lat --loopback     measure on this machine
              verbs perf write-bw                serve, on one machine ...
              verbs perf write-bw 10.0.0.1       ... and measure from another
              verbs steer -d eth0 'udp ...'      packets by flow rules, see `verbs steer --help`
              verbs steerd --access FILE         lends packets to programs without privileges
              verbs run -- ibv_devinfo           a program written for libibverbs, without RDMA

            VERBS_PROVIDER=system or =soft restricts the devices to the kernel's or to the embedded one.
            """,
        version: "0.1.0",
        subcommands: [
            DevicesCommand.self, InfoCommand.self, DoctorCommand.self, PingPongCommand.self, PerfCommand.self,
            SteerCommand.self, SteerDaemonCommand.self, RunCommand.self,
        ])
}
