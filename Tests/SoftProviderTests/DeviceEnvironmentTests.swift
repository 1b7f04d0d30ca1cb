// SPDX-License-Identifier: Apache-2.0
import FlowSteering
import Testing
import VerbsABI

@testable import SoftProvider

@Suite("The environment of the software device") struct DeviceEnvironmentTests {
    @Test("names the sources of raw packets, or none")
    func sources() throws {
        var environment = DeviceEnvironment()
        environment.sources = nil
        #expect(try environment.sourceCheck == nil)
        environment.sources = "own,10.0.0.0/8"
        #expect(try environment.sourceCheck == SourceCheck(own: true, ipv4: ["10.0.0.0/8"]))
    }

    @Test("cannot be misunderstood: what is no list of sources opens no device")
    func noSources() {
        var environment = DeviceEnvironment()
        environment.sources = "own, 10.0.0.0/8"
        let error = #expect(throws: ProviderError.self) { try environment.sourceCheck }
        #expect(error?.code == 22)
        #expect(error?.detail?.hasPrefix("VERBS_SOFT_SOURCES, sources: ` 10.0.0.0/8` is no source") == true)
    }
}
