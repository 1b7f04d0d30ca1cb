// SPDX-License-Identifier: Apache-2.0
import Verbs

/// The device, port and GID of one end.
struct DeviceChoice {
    let context: Context
    let port: PortAttributes
    /// `nil` on InfiniBand without `-x`.
    let gid: GIDEntry?

    /// - Parameter localAddress: this end's address of the TCP connection, as 16 bytes: what leads to the peer there
    ///   leads to it here too.
    init(_ options: PerfOptions, localAddress: [UInt8]) throws(PerfError) {
        let local = GID(bytes: localAddress)
        do {
            let device = try options.device.map { name throws(VerbsError) in try Device.named(name) }
            context = try device.map { device throws(VerbsError) in try device.open() } ?? Self.pick(local)
            port = try context.port(UInt8(clamping: options.devicePort))
        } catch {
            throw .device("\(error)")
        }
        gid = try Self.gid(options, port: port, local: local)
        guard port.state == .active else {
            throw .device(
                "Port \(port.number) of \(context.device.name) is not active: bring its network interface up, or choose another with -d and -i."
            )
        }
    }

    /// The device through which the connection manager reached the peer.
    init(_ link: ManagedConnection) throws(PerfError) {
        context = link.context
        do throws(VerbsError) {
            port = try context.port(link.port)
        } catch {
            throw .device("\(error)")
        }
        gid = try Self.gid(PerfOptions(test: .sendBandwidth), port: port, local: GID(bytes: link.localAddress))
    }

    /// Kernel devices before the embedded ones, and among equals the one whose GID is the address at which the peer
    /// reaches us. A loopback address says nothing about where a kernel device leads.
    private static func pick(_ local: GID?) throws(VerbsError) -> Context {
        var fallback: Context?
        for embedded in [false, true] {
            for device in Device.all() where (device.kind == .embedded) == embedded {
                guard let context = try? device.open(), let port = try? context.port(1), port.state == .active,
                    port.linkLayer == .infiniBand || !port.gids.isEmpty
                else { continue }
                if let local, port.gids.contains(where: { $0.gid == local }) { return context }
                if !embedded, local?.isLoopback ?? true { return context }
                if fallback == nil { fallback = context }
            }
        }
        if let fallback { return fallback }
        return try Device.best.open()
    }

    private static func gid(_ options: PerfOptions, port: PortAttributes, local: GID?) throws(PerfError) -> GIDEntry? {
        if let index = options.gidIndex {
            guard let entry = port.gids.first(where: { $0.index == index }) else {
                let valid = port.gids.map { String($0.index) }.joined(separator: ", ")
                throw .usage("-x \(index): there is no such GID; the port has \(valid.isEmpty ? "none" : valid).")
            }
            return entry
        }
        guard port.linkLayer != .infiniBand else { return nil }
        let sameAddress = port.gids.filter { $0.gid == local }
        guard let choice = GIDChoice.best(of: sameAddress.isEmpty ? port.gids : sameAddress, peer: local) else {
            throw .device("The port has no GID: give its network interface an address.")
        }
        return choice.entry
    }

    /// The path MTU that this end offers: `-m`, else the port's.
    func pathMTU(_ options: PerfOptions) throws(PerfError) -> MTU {
        guard let bytes = options.mtu, let mtu = MTU(byteCount: bytes) else { return port.activeMTU }
        guard mtu <= port.activeMTU else {
            throw .usage("-m \(bytes): the port takes at most \(port.activeMTU.byteCount) bytes.")
        }
        return mtu
    }
}
