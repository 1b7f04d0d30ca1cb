// SPDX-License-Identifier: Apache-2.0

/// The first message of a raw packet test over its TCP connection: who is there, and from the client what it runs.
///
/// perftest's raw_ethernet programs exchange nothing: each end has all of it on its command line.
struct RawGreeting: Equatable {
    static let byteCount = 96
    private static let mark = Array("swift-verbs raw1".utf8)

    var test: RawTest
    var mac: UInt64
    var address: UInt32
    var port: Int
    var sizes: [Int]
    var iterations: Int
    var durationSeconds: Int
    var queuePairs: Int

    var encoded: [UInt8] {
        var bytes = Self.mark + UInt64(RawTest.allCases.firstIndex(of: test) ?? 0).bigEndianBytes
        for number in [mac, UInt64(address)] { bytes += number.bigEndianBytes }
        // All sizes follow from the first and the last.
        for number in [port, sizes.first ?? 0, sizes.last ?? 0, iterations, durationSeconds, queuePairs] {
            bytes += UInt64(number).bigEndianBytes
        }
        return bytes + [UInt8](repeating: 0, count: Self.byteCount - bytes.count)
    }

    init(
        test: RawTest, mac: UInt64, address: UInt32, port: Int, sizes: [Int], iterations: Int, durationSeconds: Int,
        queuePairs: Int
    ) {
        self.test = test
        self.mac = mac
        self.address = address
        self.port = port
        self.sizes = sizes
        self.iterations = iterations
        self.durationSeconds = durationSeconds
        self.queuePairs = queuePairs
    }

    init(parsing bytes: [UInt8]) throws(PerfError) {
        let numbers = (2..<11).map { UInt64(bigEndianBytes: bytes[($0 * 8)..<($0 * 8 + 8)]) }
        guard bytes.prefix(Self.mark.count).elementsEqual(Self.mark),
            let test = RawTest.allCases[checked: UInt8(truncatingIfNeeded: numbers[0])]
        else {
            throw .protocolMismatch(
                "The peer runs no raw packet test of this program. Start the same test at both ends; perftest's need --server or --client."
            )
        }
        let (first, last) = (Int(clamping: numbers[4]), Int(clamping: numbers[5]))
        let sizes = first == last ? [first] : (6...16).map { 1 << $0 }.filter { $0 < last } + [last]
        self.init(
            test: test, mac: numbers[1], address: UInt32(truncatingIfNeeded: numbers[2]),
            port: Int(clamping: numbers[3]),
            sizes: sizes, iterations: Int(clamping: numbers[6]), durationSeconds: Int(clamping: numbers[7]),
            queuePairs: Int(clamping: numbers[8]))
        guard sizes.allSatisfy(RawOptions.sizes.contains), (1...256).contains(queuePairs),
            (0...PerfPlan.Limit.iterations.upperBound).contains(iterations), (0...86_400).contains(durationSeconds),
            (1...65_535 - 256).contains(port)
        else {
            throw .protocolMismatch("The peer asks for what cannot be. Use the same version at both ends.")
        }
    }
}
