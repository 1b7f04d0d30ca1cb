// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import RoCEWire

/// How a ``UDPLink`` is made.
package struct UDPLinkOptions: Sendable {
    /// What to ask the kernel for, for each socket and direction; ``LinkAddressState/receiveBufferBytes`` says what it
    /// gave.
    package var socketBufferBytes = 8 << 20
    /// Whether bursts may be sent as such (UDP GSO). `VERBS_SOFT_GSO=0` turns it off.
    package var allowsSegmentation = true
    /// Whether peers of this host that share an address with us get their packets through shared memory.
    /// `VERBS_SOFT_SAME_HOST=0` turns it off.
    package var sharesMemory = false
    /// Faults on what is sent; they turn bursts off.
    package var faults: FaultPlan?
    /// Where to write a capture of what is sent and received.
    package var capturePath: String?
    /// How long a packet for another process is kept where that one does not take it. A transport sends again about
    /// then.
    package var handOverLifetimeNanoseconds: UInt64 = 100_000_000
    /// What frames go by beside the sockets. `VERBS_SOFT_LINK` sets it.
    package var link = LinkPreference.udp
    /// A slot to claim, for tests; else one at random.
    package var slot: UInt8?

    package init() {}
}

/// RoCEv2 over ordinary UDP sockets, for a set of addresses of one network interface.
///
/// All processes of a host share an address and port 4791 (SO_REUSEPORT). Each claims a slot, which its queue pair
/// numbers carry in their high byte; what reaches the wrong process is handed over to the mailbox of the right one, and
/// a steering program in the kernel, learnt by all and needed by none, makes that rare.
///
/// One thread at a time may use a link (the holder of the device's progress lock). Nothing on the data path allocates.
/// The order of calls in one round:
///
///     link.receive() ──► link.datagram(0 ..< n) ──► … ──► link.send(bursts) ──► link.maintain(now:)
///
/// ``descriptor`` is readable when a round is worth while.
@safe package struct UDPLink: ~Copyable, PacketLink, BurstSink {
    package static let addressesMax = 16
    package static let groupsMax = 64
    package static let servicesMax = 256
    /// Datagrams of a batch: each message may fall apart into runs for different processes.
    static let batchMax = ReceiveRing.depth * 128

    let options: UDPLinkOptions
    let interfaceIndex: Int
    /// This process's slot on every address of the link, 1...254: the high eight bits of its queue pair numbers.
    package internal(set) var slot: UInt8 = 0
    package var counters = LinkCounters()
    /// Addresses that could not be served, and why. Renewed by ``refresh(addresses:)``.
    package internal(set) var refusals: [(address: GID, error: PacketIOError)] = []

    let poll: FileDescriptor
    let uid: UInt32
    let ring: ReceiveRing
    let outbox: SendRing
    var backlog: HandOverQueue
    /// Entries are `nil` where no address is; an address keeps its index as long as it is there. Owned by the link.
    let addresses: UnsafeMutablePointer<LinkAddress?>
    /// The descriptors of the same addresses.
    let sockets: UnsafeMutablePointer<AddressSockets>
    let groups: UnsafeMutablePointer<LinkGroup?>
    let services: UnsafeMutablePointer<LinkService?>
    /// Processes that we share memory with, or have offered it to: the first ``hostPeerCount`` count.
    let hostPeers: UnsafeMutablePointer<HostPeer>
    package internal(set) var hostPeerCount = 0
    /// By local index and slot: the place of a process in ``hostPeers``, from 1; 0 for none.
    let hostPlaces: UnsafeMutablePointer<UInt8>
    /// Changes whenever ``takesUnsealed(localIndex:slot:)`` may answer otherwise than before.
    package internal(set) var hostVersion: UInt32 = 0
    /// Calls of `receive` for which the rings are looked at alone, most of the time.
    var hostCredit = 0
    /// First records wait for a look at the sockets.
    var isHostWaiting = false
    /// Something was sent to peers since they were last looked after.
    var isHostCheckDue = false
    var hostCheckAt: UInt64 = 0
    /// When to ask which of them still live.
    var hostLifeAt: UInt64 = 0
    /// Where whole frames go beside the sockets; see ``choice``. Owned by the link.
    var path: UnsafeMutablePointer<XDPPath>?
    var packetPath: UnsafeMutablePointer<PacketPath>?
    /// What packets go by, and why by nothing faster.
    package internal(set) var choice = LinkChoice(.udp)
    /// Calls of `receive` for which the ring of frames is looked at alone, most of the time.
    var frameCredit = 0
    /// Calls of `receive` in a row that left frames for later.
    var framesWaited = 0
    let batch: UnsafeMutablePointer<Datagram>
    let events: UnsafeMutablePointer<epoll_event>
    var batchCount = 0
    /// Messages of the ring that this batch has taken.
    var used = 0
    var hot = HotSocket()
    /// Calls of `receive`, wrapping.
    var rounds: UInt32 = 0
    var canSegment: Bool
    var faults: FaultStage?
    var capture: CaptureWriter?
    /// Whether something wants `maintain` before its time.
    var isMaintenanceDue = true
    var nextMaintenance: UInt64 = 0
    var retryBindAt: UInt64 = 0
    var captureFlushAt: UInt64 = 0

    /// Opens the addresses, claims one slot on all of them, and starts to receive.
    ///
    /// An address that cannot be served goes to ``refusals``; the others keep the order and get indices from 0.
    /// - Throws: `noAddress` where none can be served, `noSlot`, or what a system call left.
    package static func open(
        on interface: NetworkInterface, addresses wanted: [NetworkInterface.Address],
        options: UDPLinkOptions = UDPLinkOptions()
    ) throws(PacketIOError) -> UDPLink {
        guard wanted.count <= Self.addressesMax else {
            throw .limit(what: "addresses of \(interface.name)", maximum: Self.addressesMax)
        }
        if let slot = options.slot, !SlotClaim.slots.contains(slot) { throw .invalid("slot \(slot) is not 1...254") }
        let poll = try FileDescriptor(epoll_create1(clinuxnet_epoll_close_on_exec), call: "epoll_create1")
        var link = UDPLink(interfaceIndex: interface.index, poll: poll, options: options)
        if let path = options.capturePath { link.capture = try CaptureWriter(path: path) }
        try link.claimSlot(on: wanted)
        try link.openPath(on: interface)
        return link
    }

    private init(interfaceIndex: Int, poll: consuming FileDescriptor, options: UDPLinkOptions) {
        self.options = options
        self.interfaceIndex = interfaceIndex
        self.poll = poll
        uid = geteuid()
        ring = ReceiveRing()
        outbox = SendRing()
        backlog = HandOverQueue()
        canSegment = options.allowsSegmentation
        if let plan = options.faults { faults = FaultStage(plan) } else { faults = nil }
        capture = nil
        unsafe path = nil
        unsafe packetPath = nil
        unsafe addresses = .allocate(capacity: Self.addressesMax)
        unsafe groups = .allocate(capacity: Self.groupsMax)
        unsafe services = .allocate(capacity: Self.servicesMax)
        unsafe hostPeers = .allocate(capacity: Self.hostPeersMax)
        unsafe hostPlaces = .allocate(capacity: Self.addressesMax * 256)
        unsafe hostPlaces.initialize(repeating: 0, count: Self.addressesMax * 256)
        unsafe batch = .allocate(capacity: Self.batchMax)
        unsafe events = .allocate(capacity: Self.eventsMax)
        unsafe sockets = .allocate(capacity: Self.addressesMax)
        unsafe sockets.initialize(repeating: AddressSockets(), count: Self.addressesMax)
        for index in 0..<Self.addressesMax { unsafe (addresses + index).initialize(to: nil) }
        for index in 0..<Self.groupsMax { unsafe (groups + index).initialize(to: nil) }
        for index in 0..<Self.servicesMax { unsafe (services + index).initialize(to: nil) }
    }

    deinit {
        closePath()
        for place in 0..<hostPeerCount { unsafe hostPeers[place].leave() }
        unsafe hostPeers.deallocate()
        unsafe hostPlaces.deallocate()
        for index in 0..<Self.groupsMax { unsafe (groups + index).deinitialize(count: 1) }
        for index in 0..<Self.servicesMax { unsafe (services + index).deinitialize(count: 1) }
        unsafe services.deallocate()
        for index in 0..<Self.addressesMax { unsafe (addresses + index).deinitialize(count: 1) }
        unsafe sockets.deallocate()
        unsafe groups.deallocate()
        unsafe addresses.deallocate()
        unsafe batch.deallocate()
        unsafe events.deallocate()
    }

    /// For a ``Waiter``: readable when something has arrived, or there is room again to send. An epoll descriptor of
    /// the link's own; do not close it.
    package var descriptor: Int32 { poll.number }

    /// Lets ``descriptor`` be readable when another descriptor is, which the link itself leaves alone. Closing that one ends it.
    package func watch(_ other: Int32) throws(PacketIOError) {
        let token = PollToken.make(PollToken.other, 0)
        guard clinuxnet_epoll_control(poll.number, clinuxnet_epoll_add, other, clinuxnet_epoll_in, token) == 0 else {
            throw SystemError.last("epoll_ctl")
        }
    }

    /// What `bursts` may have; it falls to 1 when the kernel refuses to segment.
    package var maximumSegments: Int { canSegment && faults == nil ? 64 : 1 }

    /// A datagram of the last batch. Its memory is valid until the next ``receive()``. Mutating, because the compiler
    /// copies the whole link to borrow it.
    package mutating func datagram(_ index: Int) -> Datagram {
        precondition(index >= 0 && index < batchCount, "datagram out of range")
        return unsafe batch[index]
    }

    /// What there is at a local index; `nil` where no address is.
    package func address(at index: Int) -> LinkAddressState? {
        guard index >= 0, index < Self.addressesMax else { return nil }
        return unsafe addresses[index].state
    }

    /// The address at a local index; `nil` where none is.
    @inline(__always)
    package func gid(at index: Int) -> GID? {
        guard index >= 0, index < Self.addressesMax, unsafe sockets[index].sender >= 0 else { return nil }
        return unsafe sockets[index].gid
    }

    /// The smallest receive buffer of the addresses that have one, in bytes as the kernel accounts them.
    package var receiveBufferBytes: Int {
        (0..<Self.addressesMax).compactMap { address(at: $0)?.receiveBufferBytes }.filter { $0 > 0 }.min()
            ?? SocketOption.defaultReceiveBuffer
    }

    static let eventsMax = 32
}

/// The socket that gave something last: it is asked directly for a while, which is cheaper than asking epoll first
/// once something is there, though dearer when nothing is.
struct HotSocket {
    /// Calls that a socket stays hot without giving anything: some 25 µs of polling, a round trip between two hosts.
    static let credit = 128
    /// Every 2^3 calls the other sockets are looked at too.
    static let lookAroundShift: UInt32 = 3

    var token: UInt64 = 0
    var credit = 0
    /// How many messages to ask for: asking for one is cheapest where one is there, and a flood wants more.
    var window = 1
    /// Calls in a row that gave all that was asked for.
    private var fullCalls = 0
    /// A request and its acknowledgement are two; more in a row are a flood.
    private static let fullCallsOfFlood = 4

    @inline(__always)
    mutating func noteEmpty() {
        window = 1
        fullCalls = 0
    }

    @inline(__always)
    mutating func note(_ count: Int, of asked: Int) {
        guard count == asked else {
            window = max(1, count)
            fullCalls = 0
            return
        }
        fullCalls += 1
        if asked > 1 || fullCalls >= Self.fullCallsOfFlood { window = min(asked * 4, ReceiveRing.depth) }
    }
}

/// What a descriptor in the poll set is.
enum PollToken {
    static let receiver: UInt64 = 0
    static let mailbox: UInt64 = 1
    static let group: UInt64 = 2
    static let transmit: UInt64 = 3
    static let service: UInt64 = 4
    static let frames: UInt64 = 5
    /// Of somebody else, who looks for himself when it woke somebody.
    static let other: UInt64 = 6

    static func make(_ kind: UInt64, _ index: Int) -> UInt64 { kind << 32 | UInt64(index) }
}
