// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// Message headers for one batch of bursts, and one for handing a datagram over to another process.
///
/// Allocated once; a header is filled anew for each use, and read by the kernel during the call only. All pointers live
/// as long as the ring.
@safe struct SendRing: ~Copyable {
    /// Messages of one `sendmmsg`.
    static let depth = 16
    private static let controlBytes = 64
    private static let nameBytes = 32

    let messages: UnsafeMutablePointer<clinuxnet_mmsghdr>
    private let vectors: UnsafeMutablePointer<iovec>
    private let names: UnsafeMutableRawPointer
    private let controls: UnsafeMutableRawPointer
    /// For ``prepareHandOver(header:bytes:count:to:length:)``: two vectors, a header.
    private let peerVectors: UnsafeMutablePointer<iovec>
    private let peerHeader: UnsafeMutableRawPointer
    private let peerMessage: UnsafeMutablePointer<msghdr>
    private let peerControl: UnsafeMutableRawPointer

    init() {
        let depth = Self.depth
        unsafe messages = .allocate(capacity: depth)
        unsafe vectors = .allocate(capacity: depth)
        unsafe names = .allocate(byteCount: depth * Self.nameBytes, alignment: 64)
        unsafe controls = .allocate(byteCount: depth * Self.controlBytes, alignment: 64)
        unsafe names.initializeMemory(as: UInt8.self, repeating: 0, count: depth * Self.nameBytes)
        unsafe controls.initializeMemory(as: UInt8.self, repeating: 0, count: depth * Self.controlBytes)
        for index in 0..<depth {
            unsafe (vectors + index).initialize(to: iovec())
            var message = unsafe clinuxnet_mmsghdr()
            unsafe message.msg_hdr.msg_iov = vectors + index
            unsafe message.msg_hdr.msg_iovlen = 1
            unsafe message.msg_hdr.msg_name = names + index * Self.nameBytes
            unsafe (messages + index).initialize(to: message)
        }
        unsafe peerVectors = .allocate(capacity: 2)
        unsafe peerVectors.initialize(repeating: iovec(), count: 2)
        unsafe peerHeader = .allocate(byteCount: 64, alignment: 64)
        unsafe peerMessage = .allocate(capacity: 1)
        unsafe peerMessage.initialize(to: msghdr())
        unsafe peerControl = .allocate(byteCount: Self.controlBytes, alignment: 64)
        unsafe peerControl.initializeMemory(as: UInt8.self, repeating: 0, count: Self.controlBytes)
    }

    deinit {
        unsafe messages.deallocate()
        unsafe vectors.deallocate()
        unsafe names.deallocate()
        unsafe controls.deallocate()
        unsafe peerVectors.deallocate()
        unsafe peerHeader.deallocate()
        unsafe peerMessage.deallocate()
        unsafe peerControl.deallocate()
    }

    /// Fills header `index` for a burst.
    @inline(__always)
    func prepare(_ index: Int, _ burst: Burst, scope: UInt32) {
        let message = unsafe messages + index
        let name = unsafe names + index * Self.nameBytes
        unsafe message.pointee.msg_hdr.msg_namelen =
            SocketAddress.write(burst.destination, port: roceUDPPort, scope: scope, to: name)
        unsafe vectors[index].iov_base = UnsafeMutableRawPointer(mutating: burst.base)
        unsafe vectors[index].iov_len = burst.byteCount

        let control = unsafe controls + index * Self.controlBytes
        var length = 0
        if burst.byteCount > burst.segmentSize {
            unsafe Self.storeControl(
                control, level: Constant.udp, type: Constant.udpSegment, value: UInt16(burst.segmentSize))
            length = clinuxnet_cmsg_space(MemoryLayout<UInt16>.size)
        }
        if burst.trafficClass != 0 {
            let ipv4 = burst.destination.isIPv4Mapped
            unsafe Self.storeControl(
                control + length, level: ipv4 ? Int32(IPPROTO_IP) : Int32(IPPROTO_IPV6),
                type: ipv4 ? IP_TOS : IPV6_TCLASS, value: Int32(burst.trafficClass))
            length += clinuxnet_cmsg_space(MemoryLayout<Int32>.size)
        }
        unsafe message.pointee.msg_hdr.msg_control = length == 0 ? nil : control
        unsafe message.pointee.msg_hdr.msg_controllen = length
    }

    /// Sends header 0 by the shortest way there is.
    @inline(__always)
    func sendFirst(_ descriptor: Int32) -> Bool {
        let message = unsafe messages.pointee.msg_hdr
        if unsafe message.msg_controllen == 0 {
            return unsafe clinuxnet_sendto(
                descriptor, vectors.pointee.iov_base, vectors.pointee.iov_len, names, message.msg_namelen) >= 0
        }
        return unsafe clinuxnet_sendmsg(descriptor, &messages.pointee.msg_hdr) >= 0
    }

    /// Sends a message to a mailbox; `false` with `errno` where it did not go.
    ///
    /// - Parameter passing: a descriptor that the receiver gets a copy of, or -1.
    func handOver(
        _ header: PeerMessage, bytes: UnsafeRawPointer?, count: Int, from descriptor: Int32,
        to name: borrowing SlotName,
        passing: Int32 = -1
    ) -> Bool {
        unsafe header.store(to: peerHeader)
        unsafe peerVectors[0] = iovec(iov_base: peerHeader, iov_len: PeerMessage.byteCount)
        unsafe peerVectors[1] = iovec(
            iov_base: bytes.map { unsafe UnsafeMutableRawPointer(mutating: $0) }, iov_len: count)
        unsafe peerMessage.pointee.msg_name = UnsafeMutableRawPointer(mutating: name.address)
        unsafe peerMessage.pointee.msg_namelen = name.length
        unsafe peerMessage.pointee.msg_iov = peerVectors
        unsafe peerMessage.pointee.msg_iovlen = count > 0 ? 2 : 1
        unsafe peerMessage.pointee.msg_control = nil
        unsafe peerMessage.pointee.msg_controllen = 0
        if passing >= 0 {
            unsafe Self.storeControl(peerControl, level: SOL_SOCKET, type: clinuxnet_scm_rights, value: passing)
            unsafe peerMessage.pointee.msg_control = peerControl
            unsafe peerMessage.pointee.msg_controllen = clinuxnet_cmsg_space(MemoryLayout<Int32>.size)
        }
        return unsafe clinuxnet_sendmsg(descriptor, peerMessage) >= 0
    }

    private static func storeControl<Value: BitwiseCopyable>(
        _ memory: UnsafeMutableRawPointer, level: Int32, type: Int32, value: Value
    ) {
        var header = cmsghdr()
        header.cmsg_len = clinuxnet_cmsg_length(MemoryLayout<Value>.size)
        header.cmsg_level = level
        header.cmsg_type = type
        unsafe memory.storeBytes(of: header, as: cmsghdr.self)
        unsafe memory.storeBytes(of: value, toByteOffset: clinuxnet_cmsg_length(0), as: Value.self)
    }
}
