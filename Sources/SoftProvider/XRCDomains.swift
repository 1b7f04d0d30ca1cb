// SPDX-License-Identifier: Apache-2.0
import Glibc
import RoCETransport
import VerbsABI

// XRC domains, and what else only programs of XRC call. A domain is of one open device: the kernel lets processes share one
// by a file, but a device here is a part of its process. So a file gives its own domain in each open device, and within
// that the same one to all who open it.

/// Which file it is, whatever its name.
struct FileIdentity: Hashable {
    let device: UInt64
    let inode: UInt64

    /// - Returns: `nil`, with `errno` set, for what is no descriptor.
    init?(descriptor: Int32) {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { return nil }
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
    }
}

/// The numbers of XRC domains, and the domains that were opened by a file.
struct XRCDomains {
    private var madeCount: UInt32 = 0
    private var shared: [FileIdentity: (number: UInt32, openCount: Int)] = [:]

    /// A number for a domain that is opened. The flags are those of `open`: without O_CREAT the domain must be there, with
    /// O_EXCL it must not. The codes of a refusal are the kernel's (`ib_uverbs_open_xrcd`).
    mutating func open(_ file: FileIdentity?, flags: Int32) throws(ProviderError) -> UInt32 {
        let verb: StaticString = "ibv_open_xrcd"
        guard let file else {
            guard flags & O_CREAT != 0 else {
                throw ProviderError(verb, code: EINVAL, detail: "oflags without O_CREAT, and no file of a domain")
            }
            return makeNumber()
        }
        guard let known = shared[file] else {
            guard flags & O_CREAT != 0 else {
                throw ProviderError(
                    verb, code: EAGAIN, detail: "oflags without O_CREAT: nobody has opened the file's domain here")
            }
            let number = makeNumber()
            shared[file] = (number, 1)
            return number
        }
        guard flags & O_EXCL == 0 else {
            throw ProviderError(verb, code: EINVAL, detail: "oflags with O_EXCL: the file has a domain here")
        }
        shared[file] = (known.number, known.openCount + 1)
        return known.number
    }

    mutating func close(_ file: FileIdentity?) {
        guard let file, let known = shared[file] else { return }
        shared[file] = known.openCount > 1 ? (known.number, known.openCount - 1) : nil
    }

    private mutating func makeNumber() -> UInt32 {
        madeCount &+= 1
        return madeCount
    }
}

@inline(__always)
func xrcDomainRecord(_ domain: UnsafeMutablePointer<ibv_xrcd>) -> UnsafeMutablePointer<XRCDomainRecord> {
    unsafe ObjectStorage<ibv_xrcd, XRCDomainRecord>.record(domain)
}

extension SoftContext {
    fileprivate func openXRCDomain(
        _ attributes: ibv_xrcd_init_attr
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_xrcd> {
        let needed = IBV_XRCD_INIT_ATTR_FD.rawValue | IBV_XRCD_INIT_ATTR_OFLAGS.rawValue
        guard attributes.comp_mask == needed else {
            throw ProviderError("ibv_open_xrcd", code: EINVAL, detail: "comp_mask: FD and OFLAGS, and no more")
        }
        var file: FileIdentity?
        if attributes.fd != -1 {
            file = FileIdentity(descriptor: attributes.fd)
            guard file != nil else {
                throw ProviderError("ibv_open_xrcd", code: EBADF, detail: "fd \(attributes.fd)")
            }
        }
        let number = try xrcDomains.withLock { domains throws(ProviderError) in
            try domains.open(file, flags: attributes.oflags)
        }
        let domain = unsafe ObjectStorage<ibv_xrcd, XRCDomainRecord>().initialize(
            XRCDomainRecord(number: number, file: file))
        unsafe domain.pointee.context = unsafe context
        objects.add(1, ordering: .relaxed)
        return unsafe domain
    }

    fileprivate func close(_ domain: UnsafeMutablePointer<ibv_xrcd>) throws(ProviderError) {
        let record = unsafe xrcDomainRecord(domain)
        guard unsafe record.pointee.users.load(ordering: .acquiring) == 0 else {
            throw ProviderError(
                "ibv_close_xrcd", code: EBUSY, detail: "targets or shared receive queues of the domain still exist")
        }
        let file = unsafe record.pointee.file
        xrcDomains.withLock { $0.close(file) }
        unsafe ObjectStorage<ibv_xrcd, XRCDomainRecord>.free(domain)
        objects.subtract(1, ordering: .relaxed)
    }

    /// The corresponding C function is `ibv_create_srq_ex`.
    fileprivate func makeExtendedSharedQueue(
        _ attributes: UnsafeMutablePointer<ibv_srq_init_attr_ex>
    ) throws(ProviderError) -> UnsafeMutablePointer<ibv_srq> {
        let verb: StaticString = "ibv_create_srq_ex"
        let asked = unsafe attributes.pointee
        let mask = unsafe asked.comp_mask
        func has(_ attribute: ibv_srq_init_attr_mask) -> Bool { mask & attribute.rawValue != 0 }
        guard has(IBV_SRQ_INIT_ATTR_PD), let domain = unsafe asked.pd else {
            throw ProviderError(verb, code: EINVAL, detail: "a protection domain is needed")
        }
        let type = unsafe has(IBV_SRQ_INIT_ATTR_TYPE) ? asked.srq_type : IBV_SRQT_BASIC
        var known = IBV_SRQ_INIT_ATTR_PD.rawValue | IBV_SRQ_INIT_ATTR_TYPE.rawValue
        if type == IBV_SRQT_XRC { known |= IBV_SRQ_INIT_ATTR_XRCD.rawValue | IBV_SRQ_INIT_ATTR_CQ.rawValue }
        guard type == IBV_SRQT_BASIC || type == IBV_SRQT_XRC, mask & ~known == 0 else {
            throw ProviderError(
                verb, code: EOPNOTSUPP, detail: "the device has shared receive queues of the types BASIC and XRC")
        }
        var basic = unsafe ibv_srq_init_attr(srq_context: asked.srq_context, attr: asked.attr)
        defer { unsafe attributes.pointee.attr = basic.attr }
        if type == IBV_SRQT_BASIC { return unsafe try makeSharedReceiveQueue(domain, &basic) }
        guard has(IBV_SRQ_INIT_ATTR_XRCD), let xrcDomain = unsafe asked.xrcd,
            has(IBV_SRQ_INIT_ATTR_CQ), let queue = unsafe asked.cq
        else {
            throw ProviderError(verb, code: EINVAL, detail: "one of XRC needs xrcd and cq")
        }
        return unsafe try makeSharedReceiveQueue(domain, &basic, extended: (xrcDomain, queue))
    }
}

/// `verbs_context.open_xrcd`.
@c func softOpenXRCDomain(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_xrcd_init_attr>?
) -> UnsafeMutablePointer<ibv_xrcd>? {
    guard let context = unsafe context, let attributes = unsafe attributes else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).openXRCDomain(attributes.pointee)
    }
}

/// `verbs_context.close_xrcd`.
@c func softCloseXRCDomain(_ domain: UnsafeMutablePointer<ibv_xrcd>?) -> Int32 {
    guard let domain = unsafe domain else { return EINVAL }
    return softCode { () throws(ProviderError) in
        try unsafe SoftContext.of(domain.pointee.context).close(domain)
    }
}

/// `verbs_context.create_srq_ex`: basic queues and those of XRC; there is no tag matching.
@c func softCreateExtendedSharedQueue(
    _ context: UnsafeMutablePointer<ibv_context>?, _ attributes: UnsafeMutablePointer<ibv_srq_init_attr_ex>?
) -> UnsafeMutablePointer<ibv_srq>? {
    guard let context = unsafe context, let attributes = unsafe attributes else {
        errno = EINVAL
        return nil
    }
    return unsafe softObject { () throws(ProviderError) in
        unsafe try SoftContext.of(context).makeExtendedSharedQueue(attributes)
    }
}

/// `verbs_context.get_srq_num`: what peers name a shared receive queue of XRC by.
@c func softQuerySharedQueueNumber(
    _ queue: UnsafeMutablePointer<ibv_srq>?, _ number: UnsafeMutablePointer<UInt32>?
) -> Int32 {
    guard let queue = unsafe queue, let number = unsafe number,
        let extended = unsafe sharedReceiveQueueRecord(queue).pointee.extended
    else { return EINVAL }
    unsafe number.pointee = extended.number
    return 0
}
