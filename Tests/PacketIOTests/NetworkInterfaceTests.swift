// SPDX-License-Identifier: Apache-2.0
import Foundation
import RoCEWire
import Testing

@testable import PacketIO

@Suite("Network interfaces") struct NetworkInterfaceTests {
    @Test("are those of sysfs, with its index, MTU and hardware address")
    func sysfs() throws {
        let interfaces = try NetworkInterface.all()
        let names = try FileManager.default.contentsOfDirectory(atPath: "/sys/class/net").filter {
            FileManager.default.fileExists(atPath: "/sys/class/net/\($0)/ifindex")
        }
        #expect(Set(interfaces.map(\.name)) == Set(names))
        func value(_ interface: NetworkInterface, _ file: String) throws -> String {
            try String(contentsOfFile: "/sys/class/net/\(interface.name)/\(file)", encoding: .utf8)
                .trimmingCharacters(in: .whitespacesAndNewlines)
        }
        for interface in interfaces {
            #expect(try value(interface, "ifindex") == String(interface.index))
            #expect(try value(interface, "mtu") == String(interface.mtu))
            let flags = try #require(Int(value(interface, "flags").dropFirst(2), radix: 16))
            #expect(interface.isUp == (flags & 1 != 0))
            #expect(interface.isLoopback == (flags & 8 != 0))
            let hardware = interface.hardwareAddress.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
            if try value(interface, "type") == "1" {
                #expect(try value(interface, "address") == hardware.joined(separator: ":"))
            } else {
                #expect(interface.hardwareAddress == [0, 0, 0, 0, 0, 0])
            }
        }
    }

    @Test("show the loopback addresses with prefix and scope")
    func loopback() throws {
        let lo = try #require(try NetworkInterface.named("lo"))
        #expect(lo.isLoopback)
        let ipv4 = try #require(lo.addresses.first { $0.gid == GID(ipv4: 0x7F00_0001) })
        #expect(ipv4.prefixLength == 8)
        #expect(ipv4.scope == 0)
        #expect(lo.addresses.first { $0.gid == loopbackIPv6 }?.prefixLength ?? 128 == 128)
        for interface in try NetworkInterface.all() {
            for address in interface.addresses {
                #expect(address.scope == (address.gid.isLinkLocal ? UInt32(interface.index) : 0))
            }
        }
        #expect(try NetworkInterface.named("no such interface") == nil)
    }

    @Test("serve link-local addresses with their scope")
    func linkLocal() throws {
        for interface in try NetworkInterface.all() where interface.isRunning {
            guard let address = interface.addresses.first(where: { $0.gid.isLinkLocal }) else { continue }
            var link = try UDPLink.open(on: interface, addresses: [address])
            let bytes = packet(to: link.slot)
            let sent = bytes.withUnsafeBytes { buffer in
                withUnsafePointer(
                    to: Burst(
                        base: buffer.baseAddress!, byteCount: buffer.count, segmentSize: buffer.count, localIndex: 0,
                        trafficClass: 0, destination: address.gid)
                ) { link.send(UnsafeBufferPointer(start: $0, count: 1)) }
            }
            #expect(sent == 1)
            let errors = link.counters.sendErrors
            #expect(errors == 0)
            let deadline = Waiter.now + 10_000_000_000
            var count = 0
            while count == 0, Waiter.now < deadline { count = link.receive() }
            let source = count == 1 ? link.datagram(0).source : .zero
            #expect(source == address.gid)
        }
    }

    @Test("the owner of a port is read from the kernel's tables")
    func portOwner() throws {
        // Lines of /proc/net/udp and udp6 of a machine where user 1000 had bound 127.1.2.3 and fd00::2.
        let heading =
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        let udp =
            heading
            + " 9670: 0302017F:12B7 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 217056 2 000000007704f95f 0\n"
        let udp6 =
            heading
            + " 9670: 000000FD000000000000000002000000:12B7 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 217057 2 0000000042711d3b 0\n"
        #expect(PortOwner.uid(of: GID(ipv4: 0x7F01_0203), in: udp) == 1000)
        #expect(PortOwner.uid(of: GID(ipv4: 0x7F01_0204), in: udp) == nil)
        #expect(PortOwner.uid(of: GID(high: 0xFD00_0000_0000_0000, low: 2), in: udp6) == 1000)
        #expect(PortOwner.uid(of: loopbackIPv6, in: udp6) == nil)
        // The same, bound to all addresses and to another port.
        let wild = udp.replacing("0302017F", with: "00000000")
        #expect(PortOwner.uid(of: GID(ipv4: 0x7F01_0204), in: wild) == 1000)
        #expect(PortOwner.uid(of: GID(ipv4: 0x7F01_0203), in: udp.replacing("12B7", with: "12B8")) == nil)
        #expect(PortOwner.uid(of: GID(ipv4: 1), in: "no table\n1 2 3 4 5 6 7 8 9\n: : : :\n") == nil)
    }
}
