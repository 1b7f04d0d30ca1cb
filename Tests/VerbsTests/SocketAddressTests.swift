// SPDX-License-Identifier: Apache-2.0
import Testing

@testable import Verbs

@Suite("Socket addresses") struct SocketAddressTests {
    @Test(
        "keep their text",
        arguments: ["192.0.2.1:7471", "0.0.0.0:0", "[::]:65535", "[2001:db8::1]:80", "[fe80::1%1]:4791", "[::1]:1"])
    func text(_ text: String) throws {
        let address = try #require(SocketAddress(text))
        #expect(address.description == text)
        #expect(address.isIPv4 == !text.hasPrefix("["))
    }

    @Test(
        "are told from other text",
        arguments: [
            "", ":", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:-1", "192.0.2.1:+1", "192.0.2.300:1",
            "host:1", "::1:1",
            "[::1]", "[::1:1", "[192.0.2.1%1]:1", "[fe80::1%nowhere]:1", "[fe80::1%]:1",
        ])
    func noAddress(_ text: String) {
        #expect(SocketAddress(text) == nil)
    }

    @Test("read host and port apart, and interfaces by name")
    func parts() throws {
        #expect(SocketAddress("10.0.0.1", port: 5)?.description == "10.0.0.1:5")
        #expect(SocketAddress("2001:db8::1", port: 5)?.description == "[2001:db8::1]:5")
        #expect(SocketAddress("fe80::1%lo", port: 5)?.scope == 1)
        #expect(SocketAddress("[::]:0") == SocketAddress.any())
        #expect(SocketAddress("0.0.0.0:9") == SocketAddress.anyIPv4(port: 9))
        #expect(SocketAddress.any().isWildcard && SocketAddress.anyIPv4().isWildcard)
        #expect(SocketAddress("127.0.0.1:1")?.isWildcard == false)
    }

    @Test("survive the C structures", arguments: ["192.0.2.1:7471", "[2001:db8::1]:80", "[fe80::1%3]:4791"])
    func native(_ text: String) throws {
        let address = try #require(SocketAddress(text))
        let copy = address.withNative { pointer, length in
            #expect(length == (address.isIPv4 ? 16 : 28))
            return SocketAddress(pointer)
        }
        #expect(copy == address)
    }
}
