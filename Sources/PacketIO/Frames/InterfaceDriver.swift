// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// What the driver of an interface tells of itself.
package enum InterfaceDriver {
    /// Its name (`veth`, `mlx5_core`), `nil` for one that has none (the loopback interface, tunnels).
    static func name(of interface: String) -> String? {
        guard let socket = try? FileDescriptor(socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket") else {
            return nil
        }
        var name = [CChar](repeating: 0, count: 32)
        guard unsafe clinuxnet_interface_driver(socket.number, interface, &name) == 0 else { return nil }
        return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Whether frames that the sender has not cut up come to native XDP: those of a guest, over a tap interface.
    static func handsOverJoined(_ interface: String) -> Bool { name(of: interface) == "tun" }

    /// How many queues receive; 1 where it does not say.
    package static func receiveQueueCount(of interface: String) -> Int {
        guard let socket = try? FileDescriptor(socket(AF_UNIX, clinuxnet_sock_datagram, 0), call: "socket") else {
            return 1
        }
        return unsafe max(1, Int(clinuxnet_interface_receive_queues(socket.number, interface)))
    }
}
