// SPDX-License-Identifier: Apache-2.0
import Testing
import Verbs

@Suite("An endpoint") struct EndpointTests {
    static let endpoint = Endpoint(
        transport: .reliableConnected, queuePair: 0x11A, psn: 0x7F_3A21, gid: GID(ipv4: 0x0A00_0001), lid: 0x1234,
        mtu: .bytes4096, maxReads: 16, qkey: 0x1111_1111)

    @Test("has a text form")
    func text() {
        let text = "RC,qpn=0x11a,psn=0x7f3a21,lid=4660,mtu=4096,reads=16,qkey=0x11111111,gid=::ffff:10.0.0.1"
        #expect(Self.endpoint.description == text)
        #expect(Endpoint(text) == Self.endpoint)
        #expect(Endpoint("UD,gid=::1,psn=1,mtu=256,lid=0,qpn=0x2,qkey=3,reads=0,color=blue")?.queuePair == 2)
    }

    @Test("has a byte form, in network order")
    func bytes() {
        let bytes: [UInt8] = [
            1, 2, 5, 16, 0, 0, 0x01, 0x1A, 0, 0x7F, 0x3A, 0x21, 0x11, 0x11, 0x11, 0x11, 0x12, 0x34, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 10, 0, 0, 1,
        ]
        #expect(Self.endpoint.bytes == bytes)
        #expect(Endpoint(bytes: bytes) == Self.endpoint)
    }

    @Test("goes there and back, whatever it is", arguments: Transport.allCases, MTU.allCases)
    func roundTrip(_ transport: Transport, _ mtu: MTU) {
        for _ in 0..<20 {
            let endpoint = Endpoint(
                transport: transport, queuePair: .random(in: 0...0xFF_FFFF), psn: .random(in: 0...0xFF_FFFF),
                gid: GID(high: .random(in: 0 ... .max), low: .random(in: 0 ... .max)), lid: .random(in: 0 ... .max),
                mtu: mtu, maxReads: .random(in: 0 ... .max), qkey: .random(in: 0 ... .max))
            #expect(Endpoint(endpoint.description) == endpoint)
            #expect(Endpoint(bytes: endpoint.bytes) == endpoint)
        }
    }

    @Test(
        "is not read from a text that is none",
        arguments: [
            "", "RC", "XX,qpn=1,psn=1,lid=0,mtu=256,reads=0,qkey=0,gid=::1",
            "RC,qpn=0x1000000,psn=1,lid=0,mtu=256,reads=0,qkey=0,gid=::1",
            "RC,qpn=1,psn=-1,lid=0,mtu=256,reads=0,qkey=0,gid=::1",
            "RC,qpn=1,psn=1,lid=0,mtu=300,reads=0,qkey=0,gid=::1",
            "RC,qpn=1,psn=1,lid=65536,mtu=256,reads=0,qkey=0,gid=::1",
            "RC,qpn=1,qpn=2,psn=1,lid=0,mtu=256,reads=0,qkey=0,gid=::1",
            "RC,qpn,psn=1,lid=0,mtu=256,reads=0,qkey=0,gid=::1",
            "RC,qpn=1,psn=1,lid=0,mtu=256,reads=0,qkey=0,gid=nowhere",
        ])
    func notAText(_ text: String) { #expect(Endpoint(text) == nil) }

    @Test("is not read from bytes that are none, and never traps")
    func notBytes() {
        let good = Self.endpoint.bytes
        for (index, value) in [(0, 2), (1, 9), (2, 0), (2, 6), (4, 1), (8, 1), (18, 1)] as [(Int, UInt8)] {
            var bytes = good
            bytes[index] = value
            #expect(Endpoint(bytes: bytes) == nil, "byte \(index) is \(value)")
        }
        for count in 0..<good.count { #expect(Endpoint(bytes: good.prefix(count)) == nil) }
        for _ in 0..<2000 { _ = Endpoint(bytes: (0..<36).map { _ in UInt8.random(in: 0 ... .max) }) }
    }
}

@Suite("Remote memory") struct RemoteMemoryTests {
    let memory = RemoteMemory(address: 0x1000, rkey: 0xAABB_CCDD, length: 100)

    @Test("has a byte form, in network order")
    func bytes() {
        let bytes: [UInt8] = [0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0xAA, 0xBB, 0xCC, 0xDD]
        #expect(memory.bytes == bytes)
        #expect(RemoteMemory(bytes: bytes) == memory)
        #expect(RemoteMemory(bytes: bytes.dropLast()) == nil)
        #expect(RemoteMemory(bytes: bytes + [0]) == nil)
    }

    @Test("is not read where it would pass the end of the address space")
    func overflow() {
        let last = RemoteMemory(address: .max, rkey: 1, length: 1)
        #expect(RemoteMemory(bytes: last.bytes) == last)
        #expect(RemoteMemory(bytes: RemoteMemory(address: .max, rkey: 1, length: 2).bytes) == nil)
        #expect(RemoteMemory(bytes: RemoteMemory(address: 2, rkey: 1, length: .max).bytes) == nil)
    }

    @Test("has parts inside only")
    func parts() {
        #expect(memory.part(offset: 10, length: 90) == RemoteMemory(address: 0x100A, rkey: 0xAABB_CCDD, length: 90))
        #expect(memory.part(offset: 100, length: 0)?.length == 0)
        for (offset, length) in [(10, 91), (101, 0), (-1, 1), (0, -1), (Int.max, 1), (1, Int.max)] {
            #expect(memory.part(offset: offset, length: length) == nil, "\(offset), \(length)")
        }
        #expect(memory[from: 96].length == 4)
    }
}
