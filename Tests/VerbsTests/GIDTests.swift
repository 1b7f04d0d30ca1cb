// SPDX-License-Identifier: Apache-2.0
import Testing
import Verbs

@Suite("A GID") struct GIDTests {
    @Test(
        "has the text of an IPv6 address",
        arguments: [
            ("::ffff:10.0.0.1", 0, 0xFFFF_0A00_0001), ("fe80::1", 0xFE80_0000_0000_0000, 1), ("::", 0, 0),
            ("2001:db8::8:800:200c:417a", 0x2001_0DB8_0000_0000, 0x0008_0800_200C_417A),
        ] as [(String, UInt64, UInt64)])
    func text(_ text: String, _ high: UInt64, _ low: UInt64) throws {
        let gid = try #require(GID(text))
        #expect(gid == GID(high: high, low: low))
        #expect(gid.description == text)
        #expect(GID(bytes: gid.bytes) == gid)
    }

    @Test("is read from an IPv4 address too")
    func ipv4() {
        #expect(GID("127.0.0.1") == GID(ipv4: 0x7F00_0001))
        #expect(GID("127.0.0.1")?.ipv4 == 0x7F00_0001)
        #expect(GID("fe80::1")?.ipv4 == nil)
    }

    @Test("is not read from anything else", arguments: ["", "1.2.3", "fe80::g", "::1%lo", "256.0.0.1"])
    func notAGID(_ text: String) { #expect(GID(text) == nil) }

    @Test("is not read from another count of bytes", arguments: [0, 15, 17])
    func byteCount(_ count: Int) { #expect(GID(bytes: [UInt8](repeating: 0, count: count)) == nil) }

    @Test("knows its scope")
    func scopes() throws {
        for text in ["fe80::1", "febf::1", "169.254.3.4"] { #expect(try #require(GID(text)).isLinkLocal, "\(text)") }
        for text in ["fec0::1", "10.0.0.1", "::1", "fd00::1"] {
            #expect(try !#require(GID(text)).isLinkLocal, "\(text)")
        }
        for text in ["::1", "127.0.0.1", "127.1.2.3"] { #expect(try #require(GID(text)).isLoopback, "\(text)") }
        for text in ["ff02::1", "224.0.0.1"] { #expect(try #require(GID(text)).isMulticast, "\(text)") }
        #expect(GID.zero.isZero)
    }
}

@Suite("The choice of a GID") struct GIDChoiceTests {
    static func table(_ entries: [(String, GIDEntry.Kind)]) -> [GIDEntry] {
        entries.enumerated().map {
            GIDEntry(index: $0.offset, gid: GID($0.element.0)!, kind: $0.element.1, interface: nil)
        }
    }

    /// What a ConnectX with one IPv4 address shows.
    static let usual = table([
        ("fe80::1", .roceV1), ("fe80::1", .roceV2), ("10.0.0.1", .roceV1), ("10.0.0.1", .roceV2),
        ("2001:db8::1", .roceV2),
    ])

    @Test("prefers RoCE v2, global scope, and IPv4")
    func preference() throws {
        let choice = try #require(GIDChoice.best(of: Self.usual))
        #expect(choice.entry.index == 3)
        #expect(choice.reason == "RoCE v2 is preferred, global scope goes before link-local, IPv4 goes before IPv6")
    }

    @Test("follows the peer's family")
    func family() throws {
        let choice = try #require(GIDChoice.best(of: Self.usual, peer: GID("2001:db8::99")))
        #expect(choice.entry.index == 4)
        #expect(choice.reason.contains("the peer's family (IPv6)"))
        #expect(GIDChoice.best(of: Self.usual, peer: GID("10.0.0.2"))?.entry.index == 3)
    }

    @Test("follows the peer to the link-local scope")
    func linkLocal() {
        #expect(GIDChoice.best(of: Self.usual, peer: GID("fe80::99"))?.entry.index == 1)
    }

    @Test("takes what there is")
    func onlyOne() throws {
        let choice = try #require(GIDChoice.best(of: Self.table([("fe80::1", .roceV1)])))
        #expect(choice.entry.index == 0)
        #expect(choice.reason == "the only GID of the port")
    }

    @Test("takes the lowest index among equals")
    func equals() throws {
        let choice = try #require(GIDChoice.best(of: Self.table([("10.0.0.2", .roceV2), ("10.0.0.1", .roceV2)])))
        #expect(choice.entry.index == 0)
        #expect(choice.reason == "the lowest index of 2 equals")
    }

    @Test("prefers RoCE v2 at link-local scope to RoCE v1 at global scope")
    func kindFirst() {
        let table = Self.table([("10.0.0.1", .roceV1), ("fe80::1", .roceV2)])
        #expect(GIDChoice.best(of: table)?.entry.index == 1)
    }

    @Test("skips empty entries, and has nothing to take from an empty table")
    func empty() {
        #expect(GIDChoice.best(of: []) == nil)
        #expect(GIDChoice.best(of: Self.table([("::", .roceV2)])) == nil)
        #expect(GIDChoice.best(of: Self.table([("::", .roceV2), ("10.0.0.1", .unknown(9))]))?.entry.index == 1)
    }
}
