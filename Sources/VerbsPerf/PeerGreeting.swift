// SPDX-License-Identifier: Apache-2.0

/// The first message of a session: perftest's version as text in 16 bytes, NUL padded.
///
/// Only the text up to the first NUL counts for perftest. Behind it this program writes a mark, by which two ends of
/// it know each other: they may then exchange ``PeerParameters``, and do things that perftest cannot (`--validate`).
package struct PeerGreeting: Equatable, Sendable {
    /// What this program claims. From 6.28 on a peer would also send a raw C structure whose size depends on how it
    /// was built; a version up to 6.27 keeps it from doing so.
    package static let ownVersion = "6.06"
    /// Below this a peer speaks an older protocol.
    package static let oldestVersion = 5.70
    package static let structVersion = 6.28
    /// From this on perftest's records of `-R` have the address of its data validation in them.
    package static let markersVersion = 6.29
    package static let byteCount = 16
    private static let mark: [UInt8] = Array("swift-v1".utf8)

    package var version: String
    package var isOwn: Bool

    package static let own = PeerGreeting(version: ownVersion, isOwn: true)

    package init(version: String, isOwn: Bool) {
        self.version = version
        self.isOwn = isOwn
    }

    package var encoded: [UInt8] {
        var bytes = Array(version.utf8.prefix(Self.byteCount - 1)) + [0]
        if isOwn, bytes.count + Self.mark.count <= Self.byteCount { bytes += Self.mark }
        return bytes + Array(repeating: 0, count: Self.byteCount - bytes.count)
    }

    /// - Throws: ``PerfError/protocolMismatch(_:)`` if this is no version, or one that cannot be talked to.
    package init(parsing bytes: [UInt8]) throws(PerfError) {
        let text = bytes.prefix { $0 != 0 }
        guard bytes.count == Self.byteCount, text.count < bytes.count,
            let number = Double(String(decoding: text, as: UTF8.self))
        else {
            throw .protocolMismatch(
                "What listens there does not speak perftest's protocol: its first message is no version number.")
        }
        version = String(decoding: text, as: UTF8.self)
        isOwn = Array(bytes[(text.count + 1)...].prefix(Self.mark.count)) == Self.mark
        guard number >= Self.oldestVersion else {
            throw .protocolMismatch(
                "The peer is perftest \(version); versions below 5.70 speak another protocol. Upgrade it.")
        }
    }

    /// perftest 6.28 (26.01.5) alone always sends the raw structure; later ones look at our version first.
    package var isKnownIncompatible: Bool { !isOwn && version == "6.28" }
}

extension PeerGreeting {
    /// Whether the peer's binary records have the field for data validation.
    package var hasMarkers: Bool { !isOwn && Double(version) ?? 0 >= Self.markersVersion }
}

/// What two ends of this program tell each other beyond perftest's protocol. The server follows the client.
package struct PeerParameters: Equatable, Sendable {
    package static let byteCount = 64
    private static let layoutVersion: UInt8 = 1

    package var test: PerfTest
    package var connection: PerfConnection
    package var allSizes: Bool
    package var bidirectional: Bool
    package var validate: Bool
    package var atomic: PerfAtomic
    package var reportGigabits: Bool
    package var size: Int
    /// 0 in a timed run.
    package var iterations: Int
    /// 0 in a counted run.
    package var durationSeconds: Int
    package var marginSeconds: Int
    package var queuePairs: Int

    package init(_ plan: PerfPlan, reportGigabits: Bool) {
        test = plan.test
        connection = plan.connection
        allSizes = plan.allSizes
        bidirectional = plan.bidirectional
        validate = plan.validate
        atomic = plan.atomic
        self.reportGigabits = reportGigabits
        size = plan.largestSize
        iterations = plan.iterations ?? 0
        (durationSeconds, marginSeconds) =
            if case .seconds(let seconds, let margin) = plan.length { (seconds, margin) } else { (0, 0) }
        queuePairs = plan.queuePairs
    }

    package var encoded: [UInt8] {
        var bytes: [UInt8] = [
            Self.layoutVersion, Self.index(of: test), Self.index(of: connection), Self.index(of: atomic),
            (allSizes ? 1 : 0) | (bidirectional ? 2 : 0) | (validate ? 4 : 0) | (reportGigabits ? 8 : 0), 0, 0, 0,
        ]
        for number in [size, iterations, durationSeconds, marginSeconds, queuePairs] {
            bytes += UInt64(number).bigEndianBytes
        }
        return bytes + Array(repeating: 0, count: Self.byteCount - bytes.count)
    }

    package init(parsing bytes: [UInt8]) throws(PerfError) {
        guard bytes.count == Self.byteCount, bytes[0] == Self.layoutVersion,
            let test = PerfTest.allCases[checked: bytes[1]],
            let connection = PerfConnection.allCases[checked: bytes[2]],
            let atomic = PerfAtomic.allCases[checked: bytes[3]]
        else {
            throw .protocolMismatch("The peer is another version of this program. Use the same version at both ends.")
        }
        self.test = test
        self.connection = connection
        self.atomic = atomic
        allSizes = bytes[4] & 1 != 0
        bidirectional = bytes[4] & 2 != 0
        validate = bytes[4] & 4 != 0
        reportGigabits = bytes[4] & 8 != 0
        let numbers = (0..<5).map { UInt64(bigEndianBytes: bytes[(8 + 8 * $0)..<(16 + 8 * $0)]) }
        // Ranges are judged with the options they become part of; here they only have to be numbers.
        size = Int(clamping: numbers[0])
        iterations = Int(clamping: numbers[1])
        durationSeconds = Int(clamping: numbers[2])
        marginSeconds = Int(clamping: numbers[3])
        queuePairs = Int(clamping: numbers[4])
    }

    /// The server's options with what the client asked for put in.
    package func adopted(by options: PerfOptions) throws(PerfError) -> PerfOptions {
        guard test == options.test else {
            throw .protocolMismatch(
                "This end runs \(options.test.rawValue), the client \(test.rawValue): run the same test at both ends.")
        }
        var result = options
        result.connection = connection
        result.atomic = atomic
        result.allSizes = allSizes
        result.bidirectional = bidirectional
        result.validate = validate
        result.reportGigabits = reportGigabits
        result.size = allSizes ? nil : size
        result.iterations = durationSeconds == 0 ? iterations : nil
        result.durationSeconds = durationSeconds == 0 ? nil : durationSeconds
        result.marginSeconds = durationSeconds == 0 ? nil : marginSeconds
        result.queuePairs = queuePairs
        return result
    }

    private static func index<Value: CaseIterable & Equatable>(of value: Value) -> UInt8 {
        UInt8(Array(Value.allCases).firstIndex(of: value) ?? 0)
    }
}

extension Array {
    subscript(checked index: UInt8) -> Element? {
        Int(index) < count ? self[Int(index)] : nil
    }
}
