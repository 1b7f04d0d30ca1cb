// SPDX-License-Identifier: Apache-2.0
import CLinuxNet
import Glibc
import RoCEWire
import TestNetwork
import Testing

@testable import PacketIO

@Suite("A slot") struct SlotClaimTests {
    @Test("belongs to one at a time and is free at once when its owner closes")
    func exclusive() throws {
        let address = freshAddress()
        do {
            let claim = try SlotClaim(address: address, slot: 200, bufferBytes: 4096)
            let isHeld = claim.slotOrNil == 200
            #expect(isHeld)
            #expect(try !isFree(200, on: address))
            #expect(try isFree(201, on: address))
            #expect(try SlotClaim.living(on: address)[200])
            #expect(try SlotClaim.living(on: address).count == 1)
            _ = consume claim
        }
        #expect(try becomesFree(200, on: address))
        #expect(try SlotClaim.living(on: address).isEmpty)
    }

    @Test("is free at once when the process that holds it is killed")
    func killedOwner() throws {
        let address = freshAddress()
        var child: pid_t = 0
        do {
            let claim = try SlotClaim(address: address, slot: 7, bufferBytes: 4096)
            let number = claim.descriptorOrNil ?? -1
            // The child inherits the socket as its standard input, and is then the only one that has it.
            var actions = posix_spawn_file_actions_t()
            posix_spawn_file_actions_init(&actions)
            posix_spawn_file_actions_adddup2(&actions, number, 0)
            defer { posix_spawn_file_actions_destroy(&actions) }
            var arguments: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("60"), nil]
            defer { arguments.forEach { free($0) } }
            let started = spawning.withLock { _ in posix_spawnp(&child, "sleep", &actions, nil, &arguments, environ) }
            try #require(started == 0)
            _ = consume claim
        }
        #expect(try !isFree(7, on: address))
        kill(child, SIGKILL)
        var status: Int32 = 0
        waitpid(child, &status, 0)
        #expect(try becomesFree(7, on: address))
    }

    @Test("is refused where it is no slot or is taken, and another is found where none was asked for")
    func choice() throws {
        let address = freshAddress()
        var options = UDPLinkOptions()
        for slot in [0, 255] as [UInt8] {
            options.slot = slot
            #expect(throws: PacketIOError.invalid("slot \(slot) is not 1...254")) {
                _ = try TestLink([address], options: options)
            }
        }
        options.slot = 42
        let first = try TestLink([address], options: options)
        #expect(first.slot == 42)
        #expect(throws: PacketIOError.noSlot(address: address)) { _ = try TestLink([address], options: options) }
        let second = try TestLink([address])
        #expect(second.slot != 42)
        first.die()
        #expect(try becomesFree(42, on: address))
        let third = try TestLink([address], options: options)
        #expect(third.slot == 42)
    }

    @Test("is the same on all addresses of a link, also where some are taken on one of them")
    func severalAddresses() throws {
        let first = freshAddress()
        let second = freshAddress()
        // All but one are taken on the second address.
        let holders = HeldSlots()
        for slot in SlotClaim.slots where slot != 99 { try holders.hold(slot, on: second) }
        let link = try TestLink([first, second])
        #expect(link.slot == 99)
        #expect(try SlotClaim.living(on: first).count == 1)
        #expect(throws: PacketIOError.noSlot(address: first)) { _ = try TestLink([first, second]) }
    }

    @Test("set counts and remembers")
    func slotSet() {
        var set = SlotSet()
        for slot in [1, 63, 64, 127, 128, 191, 192, 254] as [UInt8] {
            #expect(!set[slot])
            set[slot] = true
            #expect(set[slot])
        }
        #expect(set.count == 8)
        set[64] = false
        #expect(!set[64])
        #expect(set[63])
        #expect(set.count == 7)
    }
}

/// Sockets that hold slots, as other processes would.
private final class HeldSlots {
    private var descriptors: [Int32] = []

    func hold(_ slot: UInt8, on address: GID) throws {
        let claim = try SlotClaim(address: address, slot: slot, bufferBytes: 4096)
        descriptors.append(dup(claim.descriptorOrNil ?? -1))
        _ = consume claim
    }

    deinit { for descriptor in descriptors { close(descriptor) } }
}

extension Optional where Wrapped == SlotClaim {
    fileprivate var slotOrNil: UInt8? {
        switch self {
        case .none: nil
        case .some(let claim): claim.slot
        }
    }

    fileprivate var descriptorOrNil: Int32? {
        switch self {
        case .none: nil
        case .some(let claim): claim.socket.number
        }
    }
}
