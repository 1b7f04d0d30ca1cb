// SPDX-License-Identifier: Apache-2.0
import CDropinVerbs
import Glibc
import SoftProvider
import VerbsABI

// What devices, ports and tables say of themselves.

/// `ibv_query_device`
@c @implementation
public func ibv_query_device(
    _ context: UnsafeMutablePointer<ibv_context>!, _ attributes: UnsafeMutablePointer<ibv_device_attr>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_query_device(context, attributes) }
    return softCode { () throws(ProviderError) in
        var whole = ibv_device_attr_ex()
        try unsafe SoftContext.of(context).queryDevice(&whole)
        unsafe attributes.pointee = whole.orig_attr
    }
}

/// `ibv_query_port`: the entry point of programs that were built when the attributes ended before `port_cap_flags2`.
@c @implementation
public func ibv_query_port(
    _ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt8, _ attributes: OpaquePointer!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_query_port(context, port, attributes)
    }
    return softCode { () throws(ProviderError) in
        var whole = ibv_port_attr()
        try unsafe SoftContext.of(context).queryPort(port, &whole)
        whole.gid_tbl_len = SoftContext.gidTableLength
        unsafe withUnsafeBytes(of: whole) { bytes in
            unsafe UnsafeMutableRawPointer(attributes).copyMemory(
                from: bytes.baseAddress!, byteCount: MemoryLayout<ibv_port_attr>.offset(of: \.port_cap_flags2)!)
        }
    }
}

/// `ibv_query_gid`
@c @implementation
public func ibv_query_gid(
    _ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt8, _ index: Int32, _ gid: UnsafeMutablePointer<ibv_gid>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_query_gid(context, port, index, gid)
    }
    return minusOne { () throws(ProviderError) in
        do throws(ProviderError) {
            unsafe gid.pointee = try unsafe entry(of: context, port: UInt32(port), index: Int(index)).gid
        } catch {
            // A free place reads as zeros: programs walk the table by its length.
            guard error.code == ENODATA else { throw error }
            unsafe gid.pointee = ibv_gid()
        }
    }
}

/// `_ibv_query_gid_ex`
@c @implementation
public func _ibv_query_gid_ex(
    _ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt32, _ index: UInt32,
    _ result: UnsafeMutablePointer<ibv_gid_entry>!, _ flags: UInt32, _ size: Int
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee._ibv_query_gid_ex(context, port, index, result, flags, size)
    }
    guard flags == 0 else { return EOPNOTSUPP }
    return softCode { () throws(ProviderError) in
        let entry = try unsafe entry(of: context, port: port, index: Int(index))
        unsafe copy([entry], to: UnsafeMutableRawPointer(result), size: size)
    }
}

/// `_ibv_query_gid_table`
@c @implementation
public func _ibv_query_gid_table(
    _ context: UnsafeMutablePointer<ibv_context>!, _ entries: UnsafeMutablePointer<ibv_gid_entry>!, _ limit: Int,
    _ flags: UInt32, _ size: Int
) -> Int {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee._ibv_query_gid_table(context, entries, limit, flags, size)
    }
    guard flags == 0 else { return -Int(EOPNOTSUPP) }
    var count = 0
    let code = softCode { () throws(ProviderError) in
        let table = try unsafe SoftContext.of(context).queryGIDTable()
        guard table.count <= limit else {
            throw ProviderError(
                "ibv_query_gid_table", code: EINVAL, detail: "\(table.count) entries do not fit \(limit)")
        }
        unsafe copy(table, to: UnsafeMutableRawPointer(entries), size: size)
        count = table.count
    }
    return code == 0 ? count : -Int(code)
}

/// `ibv_query_gid_type`
@c @implementation
public func dropin_query_gid_type(
    _ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt8, _ index: UInt32, _ type: UnsafeMutablePointer<UInt32>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_query_gid_type(context, port, index, type)
    }
    return minusOne { () throws(ProviderError) in
        _ = try unsafe entry(of: context, port: UInt32(port), index: Int(index))
        unsafe type.pointee = 1
    }
}

/// `ibv_query_pkey`
@c @implementation
public func ibv_query_pkey(
    _ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt8, _ index: Int32, _ key: UnsafeMutablePointer<UInt16>!
) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) {
        return unsafe kernel.pointee.ibv_query_pkey(context, port, index, key)
    }
    return minusOne { () throws(ProviderError) in
        unsafe key.pointee = try unsafe SoftContext.of(context).queryPKey(port: port, index: index).bigEndian
    }
}

/// `ibv_get_pkey_index`
@c @implementation
public func ibv_get_pkey_index(_ context: UnsafeMutablePointer<ibv_context>!, _ port: UInt8, _ key: UInt16) -> Int32 {
    if let kernel = unsafe kernelVerbs(context) { return unsafe kernel.pointee.ibv_get_pkey_index(context, port, key) }
    // The membership bit does not count. There is one key, the default.
    guard port == 1, UInt16(bigEndian: key) & 0x7FFF == 0x7FFF else {
        errno = EINVAL
        return -1
    }
    return 0
}

private func entry(
    of context: UnsafeMutablePointer<ibv_context>, port: UInt32, index: Int
) throws(ProviderError) -> ibv_gid_entry {
    let table = try unsafe SoftContext.of(context).queryGIDTable()
    guard port == 1, table.indices.contains(index) else {
        throw ProviderError(
            "ibv_query_gid",
            code: port == 1 && (0..<Int(SoftContext.gidTableLength)).contains(index) ? ENODATA : EINVAL,
            detail: "port \(port), GID index \(index): the device has port 1 and \(table.count) GIDs")
    }
    return table[index]
}

/// Entries of a size that may differ from ours, which is the caller's release of verbs.h.
private func copy(_ entries: [ibv_gid_entry], to target: UnsafeMutableRawPointer, size: Int) {
    for (index, entry) in entries.enumerated() {
        unsafe withUnsafeBytes(of: entry) { bytes in
            unsafe (target + index * size).copyMemory(from: bytes.baseAddress!, byteCount: min(size, bytes.count))
        }
    }
}
