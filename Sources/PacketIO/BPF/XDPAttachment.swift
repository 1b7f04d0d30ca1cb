// SPDX-License-Identifier: Apache-2.0
import CLinuxNet

/// A program on a network interface, by XDP or TC, for as long as this value lives.
///
/// It is held by a descriptor (a BPF link), so the kernel detaches it when the process ends, however it ends.
package struct XDPAttachment: ~Copyable {
    /// Where the program runs.
    package enum Mode: String, Sendable {
        /// In the driver, before the kernel makes a packet of the frame.
        case native
        /// Behind that, for drivers without XDP: it saves the way up the stack only.
        case generic
        /// Behind the sockets that see every frame: TC ingress, from Linux 6.6 on. Any number of programs can be there.
        case ingress
    }

    package let mode: Mode
    private let link: FileDescriptor

    /// Attaches a program, of the kind that is run there. The interface must be of the calling thread's network namespace.
    ///
    /// - Throws: EBUSY or EEXIST where the interface has a program already; EOPNOTSUPP where the driver has no native XDP;
    ///   ERANGE where the MTU is too large for a program without fragments.
    package init(_ program: borrowing BPFProgram, interface index: Int, mode: Mode) throws(PacketIOError) {
        self.mode = mode
        let (type, flags) =
            switch mode {
            case .native: (CLINUXNET_BPF_XDP, CLINUXNET_XDP_NATIVE)
            case .generic: (CLINUXNET_BPF_XDP, CLINUXNET_XDP_GENERIC)
            // In front of the programs that are there already.
            case .ingress: (CLINUXNET_BPF_INGRESS, CLINUXNET_BPF_BEFORE)
            }
        link = try FileDescriptor(
            clinuxnet_bpf_link_create(program.number, UInt32(index), type.rawValue, flags.rawValue),
            call: "bpf(BPF_LINK_CREATE, \(mode.rawValue))")
    }

    /// The link, to be passed to another process: the program stays on the interface as long as anyone has it.
    package var descriptor: Int32 { link.number }

    /// Puts another program in the place of this one; no frame falls between the two.
    package func replace(with program: borrowing BPFProgram) throws(PacketIOError) {
        guard clinuxnet_bpf_link_update(link.number, program.number) == 0 else {
            throw SystemError.last("bpf(BPF_LINK_UPDATE)")
        }
    }
}
