// SPDX-License-Identifier: Apache-2.0

/// A judged and completed ``PerfOptions``: every number is known and in range. A pure value; what perftest corrects
/// silently or with a print (`force_dependecies`) is corrected here too, and told in ``notes``.
package struct PerfPlan: Equatable, Sendable {
    /// When a run ends.
    package enum Length: Equatable, Sendable {
        /// Messages for each queue pair.
        case iterations(Int)
        /// Seconds in all, of which `margin` at both ends are not counted.
        case seconds(Int, margin: Int)
    }

    /// What perftest accepts.
    package enum Limit {
        package static let size = 1 << 23
        package static let iterations = 5...100_000_000
        package static let queuePairs = 1...16384
        package static let transmitDepth = 1...15000
        package static let receiveDepth = 1...16384
        package static let completionModeration = 1...1024
        package static let mtus = [256, 512, 1024, 2048, 4096]
        /// Beyond this, moderated completions make the peak figure meaningless (perftest `MSG_SIZE_CQ_MOD_LIMIT`).
        package static let moderatedSize = 8192
        /// Iterations beyond which the quadratic search for the peak is left out.
        package static let peakIterations = 20_000
    }

    package var test: PerfTest
    package var connection: PerfConnection
    /// In increasing order; more than one with `-a`.
    package var sizes: [Int]
    package var length: Length
    package var bidirectional: Bool
    package var queuePairs: Int
    package var transmitDepth: Int
    package var receiveDepth: Int
    package var completionModeration: Int
    package var postList: Int
    package var receivePostList: Int
    /// `nil` leaves it to the device.
    package var inlineSize: Int?
    package var outstandingReads: Int?
    package var atomic: PerfAtomic
    package var measuresPeak: Bool
    package var validate: Bool
    package var useEvents: Bool
    package var useSharedReceiveQueue: Bool
    package var useConnectionManager: Bool
    /// What was changed, for the user.
    package var notes: [String] = []

    package var largestSize: Int { sizes.last ?? 0 }
    package var allSizes: Bool { sizes.count > 1 }
    package var iterations: Int? {
        if case .iterations(let count) = length { count } else { nil }
    }

    /// Judges the options as `role` would use them.
    package init(_ options: PerfOptions, isServer: Bool) throws(PerfError) {
        test = options.test
        connection = options.connection
        bidirectional = options.bidirectional
        queuePairs = options.queuePairs
        postList = options.postList
        receivePostList = options.receivePostList
        inlineSize = options.inlineSize
        outstandingReads = options.outstandingReads
        atomic = options.atomic
        validate = options.validate
        useEvents = options.useEvents
        useSharedReceiveQueue = options.useSharedReceiveQueue
        useConnectionManager = options.useConnectionManager
        length = try Self.length(options)
        sizes = try Self.sizes(options)
        transmitDepth = options.transmitDepth ?? (options.test.measure == .bandwidth ? 128 : 1)
        receiveDepth = options.receiveDepth ?? (options.test.operation == .send ? 512 : 1)
        completionModeration = options.completionModeration ?? 100
        measuresPeak = false
        try checkRanges(options)
        fitDepths(options)
        try fitModeration(options)
        try checkCombinations(options)
        try fitConnectionManager(options)
        // A one-way SEND receiver has no posts of its own to measure a peak from.
        let isReceiverOnly = test.operation == .send && isServer && !bidirectional
        measuresPeak =
            test.measure == .bandwidth && !options.skipPeak && !isReceiverOnly
            && (iterations.map { $0 <= Limit.peakIterations } ?? false)
    }

    private static func length(_ options: PerfOptions) throws(PerfError) -> Length {
        if let seconds = options.durationSeconds {
            let margin = options.marginSeconds ?? 2
            guard seconds > 0 else { throw .usage("-D \(seconds): the duration must be at least 1 second.") }
            // Without -f the margin gives way to a short duration; a margin that was asked for does not.
            if 2 * margin < seconds { return .seconds(seconds, margin: margin) }
            guard options.marginSeconds == nil else {
                throw .usage("-f \(margin): two margins leave nothing of a duration of \(seconds) s to count.")
            }
            return .seconds(seconds, margin: 0)
        }
        let count = options.iterations ?? (options.test == .writeBandwidth ? 5000 : 1000)
        guard Limit.iterations.contains(count) else {
            throw .usage("-n \(count): the number of iterations must be \(text(Limit.iterations)).")
        }
        return .iterations(count)
    }

    private static func sizes(_ options: PerfOptions) throws(PerfError) -> [Int] {
        if options.test.operation == .atomic {
            guard !options.allSizes, options.size ?? 8 == 8 else {
                throw .usage(
                    "An atomic operation works on 8 bytes: -s and -a do not apply to \(options.test.rawValue).")
            }
            return [8]
        }
        if options.allSizes { return (1...23).map { 1 << $0 } }
        let size = options.size ?? (options.test.measure == .bandwidth ? 65536 : 2)
        guard size >= 1, size <= Limit.size else {
            throw .usage("-s \(size): the size must be 1...\(Limit.size) bytes.")
        }
        return [size]
    }

    private static func text(_ range: ClosedRange<Int>) -> String {
        "\(range.lowerBound)...\(range.upperBound)"
    }

    private func checkRanges(_ options: PerfOptions) throws(PerfError) {
        func check(_ name: String, _ value: Int, _ range: ClosedRange<Int>) throws(PerfError) {
            guard range.contains(value) else { throw .usage("\(name) \(value): must be \(Self.text(range)).") }
        }
        try check("-q", queuePairs, Limit.queuePairs)
        try check("-t", transmitDepth, Limit.transmitDepth)
        try check("-r", receiveDepth, Limit.receiveDepth)
        try check("-Q", completionModeration, Limit.completionModeration)
        try check("-l", postList, Limit.transmitDepth)
        try check("--recv_post_list", receivePostList, Limit.receiveDepth)
        try check("-S", options.serviceLevel, 0...15)
        try check("--tclass", options.trafficClass, 0...255)
        try check("-u", options.timeoutExponent, 0...31)
        try check("-i", options.devicePort, 1...255)
        try check("-p", options.tcpPort, 1...65535)
        if let size = options.inlineSize { try check("-I", size, 0...912) }
        if let reads = options.outstandingReads { try check("-o", reads, 1...255) }
        if let index = options.gidIndex { try check("-x", index, 0...1023) }
        if let mtu = options.mtu, !Limit.mtus.contains(mtu) {
            throw .usage("-m \(mtu): a path MTU is one of 256, 512, 1024, 2048, 4096 bytes.")
        }
    }

    private mutating func fitDepths(_ options: PerfOptions) {
        guard let count = iterations else { return }
        transmitDepth = min(transmitDepth, count)
        guard test.operation == .send else { return }
        // Nothing tells an unreliable sender to wait, so the receiver posts all it can beforehand.
        if connection != .rc, options.receiveDepth == nil { receiveDepth = min(count, 16000) }
        receiveDepth = min(receiveDepth, count)
    }

    private mutating func fitModeration(_ options: PerfOptions) throws(PerfError) {
        if largestSize > Limit.moderatedSize, connection != .ud, !allSizes, !useEvents {
            if options.completionModeration == nil {
                completionModeration = 1
            } else if completionModeration > 1 {
                notes.append("Large messages with -Q \(completionModeration): the peak figure is inaccurate.")
            }
        }
        completionModeration = min(completionModeration, transmitDepth)
        guard postList > 1 else { return }
        guard test.measure == .bandwidth else { throw .usage("-l applies to bandwidth tests only.") }
        guard postList <= transmitDepth else {
            throw .usage("-l \(postList): a list cannot be longer than the send queue (-t \(transmitDepth)).")
        }
        if let count = iterations, count % postList != 0 {
            throw .usage("-n \(count) must be a multiple of -l \(postList).")
        }
        if options.completionModeration == nil {
            completionModeration = postList
            notes.append("With -l \(postList), one completion is asked for each list.")
        } else if postList % completionModeration != 0 {
            throw .usage("-l \(postList) must be a multiple of -Q \(completionModeration).")
        }
    }

    /// The connection manager decides what the options would say otherwise.
    private mutating func fitConnectionManager(_ options: PerfOptions) throws(PerfError) {
        guard useConnectionManager else { return }
        guard connection != .uc else {
            throw .usage(
                "-R: the connection manager connects RC and UD queue pairs, no UC ones. Leave out -R or -c UC.")
        }
        if options.gidIndex != nil { notes.append("-x is not used with -R: the addresses decide on the GID.") }
        if options.mtu != nil { notes.append("-m is not used with -R: the connection manager agrees on the path MTU.") }
    }

    private func checkCombinations(_ options: PerfOptions) throws(PerfError) {
        guard connection.supports(test.operation) else {
            throw .usage("\(test.rawValue) does not exist over \(connection.rawValue): use -c RC.")
        }
        if bidirectional, test.measure == .latency {
            throw .usage("-b applies to bandwidth tests only; a latency test goes both ways already.")
        }
        if queuePairs > 1, test.measure == .latency {
            throw .usage("-q \(queuePairs): latency tests use one queue pair.")
        }
        if receivePostList > 1 {
            guard test.operation == .send, test.measure == .bandwidth else {
                throw .usage("--recv_post_list applies to send-bw only.")
            }
            if let count = iterations, count % receivePostList != 0 {
                throw .usage("-n \(count) must be a multiple of --recv_post_list \(receivePostList).")
            }
        }
        if useSharedReceiveQueue {
            guard test.operation == .send else { throw .usage("--use-srq applies to send-bw and send-lat only.") }
            guard receiveDepth >= queuePairs else {
                throw .usage("--use-srq: -r \(receiveDepth) must be at least the number of queue pairs, \(queuePairs).")
            }
        }
        if case .seconds = length {
            if allSizes { throw .usage("-D and -a exclude each other.") }
            if useEvents { throw .usage("-D and -e exclude each other.") }
        }
        if useEvents, test == .writeLatency {
            throw .usage("write-lat has no completion at the receiver to sleep on: -e does not apply.")
        }
        if validate, test == .writeBandwidth, bidirectional || queuePairs > 1 || allSizes {
            throw .usage("--validate of write-bw needs one size, one queue pair and one direction.")
        }
    }

    /// UD messages fit in one packet: the plan with sizes bounded by the path MTU that was agreed.
    package func limited(toPathMTU mtu: Int, sizeWasGiven: Bool) throws(PerfError) -> PerfPlan {
        guard connection == .ud, largestSize > mtu else { return self }
        var plan = self
        if allSizes {
            plan.sizes = sizes.filter { $0 <= mtu }
            return plan
        }
        guard !sizeWasGiven else {
            throw .usage("-s \(largestSize): a UD message is one packet, at most the path MTU of \(mtu) bytes.")
        }
        plan.sizes = [mtu]
        plan.notes.append("A UD message is one packet: the size is the path MTU, \(mtu) bytes.")
        return plan
    }
}
