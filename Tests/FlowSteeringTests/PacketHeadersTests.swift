import FlowTraffic
// SPDX-License-Identifier: Apache-2.0
import Foundation
import Testing

@testable import FlowSteering

func key(of frame: [UInt8], strippedTag: UInt16? = nil) -> FlowKey {
    PacketHeaders.key(of: frame.span.bytes, strippedTag: strippedTag)
}

private let captures = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../Fixtures/Captures")
    .standardized

@Suite("Headers of frames") struct PacketHeadersTests {
    @Test(
        "Frames of random headers are read as tshark reads them", .enabled(if: Dissection.program != nil, "no tshark"),
        arguments: [1, 2, 3] as [UInt64])
    func randomFrames(seed: UInt64) throws {
        var maker = FrameMaker(seed: seed)
        let frames = (0..<600).map { _ in maker.frame() }
        let file = FileManager.default.temporaryDirectory.appending(path: "flow-\(UUID().uuidString).pcap")
        defer { try? FileManager.default.removeItem(at: file) }
        try Dissection.write(frames, to: file)
        try compare(frames, Dissection(of: file), "seed \(seed)")
    }

    @Test(
        "Packets that the kernel sent are read as tshark reads them",
        .enabled(if: Dissection.program != nil, "no tshark"))
    func captured() throws {
        let names = FileManager.default.enumerator(atPath: captures.path)?.compactMap { $0 as? String } ?? []
        let files = names.filter { $0.hasSuffix(".pcap") }.sorted()
        #expect(files.count > 20)
        // tshark takes its time to start: a part of them each.
        for name in files
        where name.contains("ipv6") || name.contains("mckey") || name.contains("rping") || name.contains("ud") {
            let file = captures.appending(path: name)
            try compare(Dissection.frames(of: file), Dissection(of: file), name)
        }
    }

    @Test(
        "What the kernel sends, in fragments and inside of a VXLAN, is read as tshark reads it",
        .enabled(
            if: Dissection.program != nil && KernelTraffic.isPossible, "no tshark, tcpdump or namespace with VXLAN"))
    func kernelTraffic() throws {
        let file = FileManager.default.temporaryDirectory.appending(path: "flow-\(UUID().uuidString).pcap")
        defer { try? FileManager.default.removeItem(at: file) }
        try #require(KernelTraffic.run("kernel-traffic.sh", file.path) == 0)
        let frames = try Dissection.frames(of: file)
        try compare(frames, Dissection(of: file), "kernel")
        // All kinds are there: a test that saw nothing would prove nothing.
        let keys = frames.map { key(of: $0) }
        func has(_ layers: FlowLayers, inner: Bool) -> Bool {
            keys.contains { $0.layers(inner: inner).isSuperset(of: layers) }
        }
        for inner in [false, true] {
            for version in [FlowLayers.ipv4, .ipv6] {
                #expect(has([version, .tcp, .transportFields], inner: inner))
                #expect(has([version, .udp, .transportFields], inner: inner))
                #expect(
                    keys.contains {
                        let layers = $0.layers(inner: inner)
                        return layers.isSuperset(of: [version, .udp]) && !layers.contains(.transportFields)
                    }, "no fragment behind the first")
            }
        }
        let rule = try FlowKeyPattern(FlowRule(parsing: "vxlan vni 5000 inner ip dst 10.8.0.2 inner udp dst-port 7000"))
        #expect(keys.filter { rule.matches($0) }.count == 1)
    }

    private func compare(_ frames: [[UInt8]], _ dissection: Dissection, _ source: String) throws {
        try #require(dissection.frames.count == frames.count, "\(source): tshark read other frames")
        for (index, (frame, seen)) in zip(frames, dissection.frames).enumerated() {
            let differences = KeyDissection(key: key(of: frame)).differences(from: seen)
            #expect(
                differences.isEmpty,
                "\(source), frame \(index + 1) \(seen["frame.protocols"] ?? []): \(differences.joined(separator: "; "))"
            )
        }
    }

    @Test("A frame that is cut anywhere is read without harm, and never gains a field")
    func cutFrames() {
        var maker = FrameMaker(seed: 9)
        for _ in 0..<40 {
            let frame = maker.frame()
            let whole = key(of: frame)
            for end in 0..<frame.count {
                let part = key(of: Array(frame[..<end]))
                for inner in [false, true] {
                    #expect(whole.layers(inner: inner).isSuperset(of: part.layers(inner: inner)))
                }
            }
        }
    }

    @Test("A tag that the kernel took out of the frame counts like one in it")
    func strippedTag() {
        let addresses: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]
        let tagged = addresses + [0x81, 0x00, 0x20, 0x64, 0x88, 0xB5, 1, 2]
        let bare = addresses + [0x88, 0xB5, 1, 2]
        #expect(key(of: tagged) == key(of: bare, strippedTag: 0x2064))
        #expect(key(of: tagged) != key(of: bare))
    }

    @Test("Ports of a later fragment are not guessed from its payload")
    func laterFragment() throws {
        // UDP, fragment offset 8, payload that would be ports.
        var frame: [UInt8] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]
        frame += [0x45, 0, 0, 28, 0, 1, 0, 1, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 0, 53, 0, 8, 0, 0]
        let fragment = key(of: frame)
        #expect(fragment.layers(inner: false) == [.ethernet, .ipv4, .udp])
        #expect(try FlowKeyPattern(FlowRule(parsing: "ip udp")).matches(fragment))
        #expect(try !FlowKeyPattern(FlowRule(parsing: "ip udp dst-port 53")).matches(fragment))
        #expect(try !FlowKeyPattern(FlowRule(parsing: "ip udp dst-port 0")).matches(fragment))
        frame[21] = 0
        #expect(try FlowKeyPattern(FlowRule(parsing: "ip udp dst-port 53")).matches(key(of: frame)))
    }
}

/// The script beside this file.
private enum KernelTraffic {
    static let isPossible =
        ["/usr/bin/tcpdump", "/usr/sbin/tcpdump"].contains(where: FileManager.default.isExecutableFile(atPath:))
        && shell(
            "unshare $([ $(id -u) = 0 ] && printf %s -n || printf %s -Urn) ip link add vx type vxlan id 1 dstport 4789")
            == 0

    static func run(_ script: String, _ argument: String) throws -> Int32 {
        let path = URL(filePath: #filePath).deletingLastPathComponent().appending(path: script).path
        return try start([path, argument])
    }

    private static func shell(_ text: String) -> Int32 { (try? start(["-c", text])) ?? -1 }

    private static func start(_ arguments: [String]) throws -> Int32 {
        let process = Process()
        process.executableURL = URL(filePath: "/bin/bash")
        process.arguments = arguments
        process.standardOutput = FileHandle.nullDevice
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        return process.terminationStatus
    }
}
