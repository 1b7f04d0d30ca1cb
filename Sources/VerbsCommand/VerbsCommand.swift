// SPDX-License-Identifier: Apache-2.0
import ArgumentParser

@main
struct VerbsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "verbs", abstract: "RDMA verbs on any Linux machine.")
}
