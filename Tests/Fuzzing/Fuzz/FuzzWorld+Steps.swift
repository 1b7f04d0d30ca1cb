// SPDX-License-Identifier: Apache-2.0
import RoCETransport

/// What happens next in a ``FuzzWorld``. The number is a byte of the input, modulo how many there are.
enum FuzzStep: UInt8, CaseIterable {
    case inject
    case injectRaw
    case deliver
    case deliverAll
    case postSend
    case postReceive
    case drain
    case poll
    case wait
    case waitForDeadline
    case control
}

extension FuzzWorld {
    static let stepCountMax = 200

    func step(_ input: inout FuzzInput) {
        let code = input.byte()
        let index = Int(code >> 4) % queuePairs.count
        switch FuzzStep(rawValue: code & 0xF) ?? .deliverAll {
        case .inject: inject(index, &input)
        case .injectRaw: injectRaw(index, &input)
        case .deliver: deliver(&input)
        case .deliverAll: deliverAll(&input)
        case .postSend: postSend(index, &input)
        case .postReceive: postReceive(index, &input)
        case .drain: drain()
        case .poll: poll()
        case .wait: advance(by: UInt64(input.byte()) << UInt64(input.below(40)))
        case .waitForDeadline: advanceToDeadline()
        case .control: control(index, &input)
        }
        checkEveryStep()
    }

    /// Calls of the control path, between rounds, as applications make them at any time.
    private func control(_ index: Int, _ input: inout FuzzInput) {
        switch input.below(13) {
        case 0: reconnect(index, readAtomicMax: UInt8(input.below(17)))
        case 1: replace(index)
        case 2: modify(index, .state) { $0.state = .error }
        case 3: if state(index) == .readyToSend { modify(index, .state) { $0.state = .sendQueueDrained } }
        case 4:
            let limit = UInt8(input.below(17))
            if state(index) == .sendQueueDrained {
                modify(index, [.state, .readAtomicMax, .destinationReadAtomicMax]) {
                    $0.state = .sendQueueDrained
                    $0.readAtomicMax = limit
                    $0.destinationReadAtomicMax = limit
                }
            }
        case 5, 6:
            if [.sendQueueDrained, .sendQueueError].contains(state(index)) {
                modify(index, .state) { $0.state = .readyToSend }
            }
        case 7: memory.deregister(input.pick(FuzzMemory.Name.allCases), from: engine)
        case 8, 9: memory.register(input.pick(FuzzMemory.Name.allCases), with: engine, &generator)
        case 10: replaceWindow(&input)
        case 11: replaceExtendedQueue()
        default:
            // Refused where more is posted than would fit, or the limit were out of reach.
            try? engine.pointee.modifySharedReceiveQueue(
                sharedReceiveQueue, capacity: 1 + input.below(16), limit: input.below(9))
        }
    }

    private func replaceWindow(_ input: inout FuzzInput) {
        let place = input.below(windows.count)
        guard (try? engine.pointee.deallocateWindow(windows[place])) != nil else { return }
        let type: MemoryWindowType = place == 0 ? .type1 : .type2
        windows[place] = try! engine.pointee.allocateWindow(protectionDomain: 1, type: type, using: &generator)
    }
}
