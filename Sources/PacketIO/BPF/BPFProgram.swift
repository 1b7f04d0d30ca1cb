// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A program that the kernel has verified and compiled.
package struct BPFProgram: ~Copyable {
    private static let logBytes = 65_536

    /// What an XDP program says of a frame (`enum xdp_action`).
    package enum Verdict: Int32, Sendable {
        case aborted, drop, pass, transmit, redirect
    }

    private let descriptor: FileDescriptor

    /// Where a program runs, by which it sees other contexts.
    package enum Kind: Sendable {
        /// On frames, before the sockets that see all of them.
        case xdp
        /// On the kernel's packets (`struct __sk_buff`), behind those sockets and before the rest of its stack: TC.
        case ingress

        /// What the program returns.
        package func code(of verdict: Verdict) -> Int32 {
            switch (self, verdict) {
            case (.xdp, _): verdict.rawValue
            // TC_ACT_SHOT, and TCX_NEXT: what others want of the packet is theirs.
            case (.ingress, .drop): 2
            case (.ingress, _): -1
            }
        }
    }

    private let kind: Kind

    /// Loads an XDP program. The corresponding C function is `bpf_prog_load`.
    ///
    /// - Parameter takesFragments: whether it copes with frames in several buffers, and touches the first alone: without,
    ///   drivers refuse it on interfaces with a large MTU.
    /// - Throws: EPERM without CAP_BPF and CAP_NET_ADMIN; for a program that the verifier refuses, its words.
    package init(xdp instructions: [BPFInstruction], takesFragments: Bool = false) throws(PacketIOError) {
        try self.init(.xdp, instructions, takesFragments: takesFragments)
    }

    /// Loads a program of a kind.
    ///
    /// - Throws: as for XDP.
    package init(
        _ kind: Kind, _ instructions: [BPFInstruction], takesFragments: Bool = false
    ) throws(PacketIOError) {
        let words = instructions.map(\.word)
        let flags: UInt32 = takesFragments ? UInt32(CLINUXNET_BPF_PROGRAM_HAS_FRAGMENTS.rawValue) : 0
        let type = UInt32((kind == .xdp ? CLINUXNET_BPF_PROGRAM_XDP : CLINUXNET_BPF_PROGRAM_INGRESS).rawValue)
        var number = unsafe clinuxnet_bpf_program_load(type, words, UInt32(words.count), flags, nil, 0)
        if number < 0, clinuxnet_errno() == EACCES || clinuxnet_errno() == EINVAL {
            // Again, to hear why.
            var log = [CChar](repeating: 0, count: Self.logBytes)
            number = unsafe clinuxnet_bpf_program_load(
                type, words, UInt32(words.count), flags, &log, UInt32(log.count))
            if number < 0 {
                let text = String(decoding: log.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
                let end = text.split(separator: "\n").suffix(4).joined(separator: "; ")
                throw .system(call: "bpf(BPF_PROG_LOAD): \(end)", code: clinuxnet_errno())
            }
        }
        descriptor = try FileDescriptor(number, call: "bpf(BPF_PROG_LOAD)")
        self.kind = kind
    }

    var number: Int32 { descriptor.number }

    /// The kernel's number of the program, as `ip link` shows it.
    package var id: Int { Int(clinuxnet_bpf_program_id(descriptor.number)) }

    /// What the program says of a frame of at least 14 bytes, without an interface; `nil` where the kernel cannot run it.
    package func verdict(on frame: [UInt8]) -> Verdict? {
        var code: UInt32 = 0
        guard unsafe clinuxnet_bpf_program_run(descriptor.number, frame, UInt32(frame.count), &code) == 0 else {
            return nil
        }
        if kind == .xdp { return Verdict(rawValue: Int32(bitPattern: code)) }
        return [.drop, .pass].first { kind.code(of: $0) == Int32(bitPattern: code) }
    }
}
