// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// The functions of libibverbs.so.1, found by name when the library is loaded.
///
/// The library is never unloaded: providers inside it keep threads and exit handlers. So the pointers stay good.
@safe struct LibIBVerbs: @unchecked Sendable {  // Function pointers, constant after loading.
    typealias Device = UnsafeMutablePointer<ibv_device>
    typealias Context = UnsafeMutablePointer<ibv_context>
    typealias Domain = UnsafeMutablePointer<ibv_pd>
    typealias Region = UnsafeMutablePointer<ibv_mr>
    typealias Channel = UnsafeMutablePointer<ibv_comp_channel>
    typealias Queue = UnsafeMutablePointer<ibv_cq>
    typealias Pair = UnsafeMutablePointer<ibv_qp>
    typealias Shared = UnsafeMutablePointer<ibv_srq>
    typealias Handle = UnsafeMutablePointer<ibv_ah>
    typealias Raw = UnsafeMutableRawPointer

    let getDeviceList: @convention(c) (UnsafeMutablePointer<Int32>) -> UnsafeMutablePointer<Device?>?
    let freeDeviceList: @convention(c) (UnsafeMutablePointer<Device?>) -> Void
    let getDeviceName: @convention(c) (Device) -> UnsafePointer<CChar>?
    let getDeviceGUID: @convention(c) (Device) -> UInt64
    let openDevice: @convention(c) (Device) -> Context?
    let closeDevice: @convention(c) (Context) -> Int32
    let queryDevice: @convention(c) (Context, UnsafeMutablePointer<ibv_device_attr>) -> Int32
    let queryPort: @convention(c) (Context, UInt8, Raw) -> Int32
    let queryGID: @convention(c) (Context, UInt8, Int32, UnsafeMutablePointer<ibv_gid>) -> Int32
    /// Since rdma-core 32.
    let queryGIDTable: (@convention(c) (Context, UnsafeMutablePointer<ibv_gid_entry>, Int, UInt32, Int) -> Int)?
    let queryPKey: @convention(c) (Context, UInt8, Int32, UnsafeMutablePointer<UInt16>) -> Int32
    let allocatePD: @convention(c) (Context) -> Domain?
    let deallocatePD: @convention(c) (Domain) -> Int32
    let registerMR: @convention(c) (Domain, Raw, Int, Int32) -> Region?
    /// Since rdma-core 28: knows which flags the kernel may ignore.
    let registerMRIOVA2: (@convention(c) (Domain, Raw, Int, UInt64, UInt32) -> Region?)?
    /// Since rdma-core 34.
    let registerDmabufMR: (@convention(c) (Domain, UInt64, Int, UInt64, Int32, Int32) -> Region?)?
    let deregisterMR: @convention(c) (Region) -> Int32
    let createChannel: @convention(c) (Context) -> Channel?
    let destroyChannel: @convention(c) (Channel) -> Int32
    let createCQ: @convention(c) (Context, Int32, Raw?, Channel?, Int32) -> Queue?
    let resizeCQ: @convention(c) (Queue, Int32) -> Int32
    let destroyCQ: @convention(c) (Queue) -> Int32
    let getCQEvent: @convention(c) (Channel, UnsafeMutablePointer<Queue?>, UnsafeMutablePointer<Raw?>) -> Int32
    let ackCQEvents: @convention(c) (Queue, UInt32) -> Void
    let createQP: @convention(c) (Domain, UnsafeMutablePointer<ibv_qp_init_attr>) -> Pair?
    let modifyQP: @convention(c) (Pair, UnsafeMutablePointer<ibv_qp_attr>, Int32) -> Int32
    let queryQP:
        @convention(c) (Pair, UnsafeMutablePointer<ibv_qp_attr>, Int32, UnsafeMutablePointer<ibv_qp_init_attr>) -> Int32
    let destroyQP: @convention(c) (Pair) -> Int32
    let createSRQ: @convention(c) (Domain, UnsafeMutablePointer<ibv_srq_init_attr>) -> Shared?
    let modifySRQ: @convention(c) (Shared, UnsafeMutablePointer<ibv_srq_attr>, Int32) -> Int32
    let querySRQ: @convention(c) (Shared, UnsafeMutablePointer<ibv_srq_attr>) -> Int32
    let destroySRQ: @convention(c) (Shared) -> Int32
    let createAH: @convention(c) (Domain, UnsafeMutablePointer<ibv_ah_attr>) -> Handle?
    let destroyAH: @convention(c) (Handle) -> Int32
    let attachMulticast: @convention(c) (Pair, UnsafePointer<ibv_gid>, UInt16) -> Int32
    let detachMulticast: @convention(c) (Pair, UnsafePointer<ibv_gid>, UInt16) -> Int32
    let getAsyncEvent: @convention(c) (Context, UnsafeMutablePointer<ibv_async_event>) -> Int32
    let ackAsyncEvent: @convention(c) (UnsafeMutablePointer<ibv_async_event>) -> Void

    static func load() -> Result<LibIBVerbs, LoadError> {
        do throws(LoadError) {
            return .success(
                try LibIBVerbs(
                    LibrarySymbols(
                        of: "libibverbs.so.1", oldest: "rdma-core 15", packages: "libibverbs1 ibverbs-providers")))
        } catch {
            return .failure(error)
        }
    }

    private init(_ symbols: LibrarySymbols) throws(LoadError) {
        unsafe getDeviceList = try symbols.required("ibv_get_device_list")
        unsafe freeDeviceList = try symbols.required("ibv_free_device_list")
        unsafe getDeviceName = try symbols.required("ibv_get_device_name")
        unsafe getDeviceGUID = try symbols.required("ibv_get_device_guid")
        unsafe openDevice = try symbols.required("ibv_open_device")
        unsafe closeDevice = try symbols.required("ibv_close_device")
        unsafe queryDevice = try symbols.required("ibv_query_device")
        unsafe queryPort = try symbols.required("ibv_query_port")
        unsafe queryGID = try symbols.required("ibv_query_gid")
        unsafe queryGIDTable = symbols.optional("_ibv_query_gid_table")
        unsafe queryPKey = try symbols.required("ibv_query_pkey")
        unsafe allocatePD = try symbols.required("ibv_alloc_pd")
        unsafe deallocatePD = try symbols.required("ibv_dealloc_pd")
        unsafe registerMR = try symbols.required("ibv_reg_mr")
        unsafe registerMRIOVA2 = symbols.optional("ibv_reg_mr_iova2")
        unsafe registerDmabufMR = symbols.optional("ibv_reg_dmabuf_mr")
        unsafe deregisterMR = try symbols.required("ibv_dereg_mr")
        unsafe createChannel = try symbols.required("ibv_create_comp_channel")
        unsafe destroyChannel = try symbols.required("ibv_destroy_comp_channel")
        unsafe createCQ = try symbols.required("ibv_create_cq")
        unsafe resizeCQ = try symbols.required("ibv_resize_cq")
        unsafe destroyCQ = try symbols.required("ibv_destroy_cq")
        unsafe getCQEvent = try symbols.required("ibv_get_cq_event")
        unsafe ackCQEvents = try symbols.required("ibv_ack_cq_events")
        unsafe createQP = try symbols.required("ibv_create_qp")
        unsafe modifyQP = try symbols.required("ibv_modify_qp")
        unsafe queryQP = try symbols.required("ibv_query_qp")
        unsafe destroyQP = try symbols.required("ibv_destroy_qp")
        unsafe createSRQ = try symbols.required("ibv_create_srq")
        unsafe modifySRQ = try symbols.required("ibv_modify_srq")
        unsafe querySRQ = try symbols.required("ibv_query_srq")
        unsafe destroySRQ = try symbols.required("ibv_destroy_srq")
        unsafe createAH = try symbols.required("ibv_create_ah")
        unsafe destroyAH = try symbols.required("ibv_destroy_ah")
        unsafe attachMulticast = try symbols.required("ibv_attach_mcast")
        unsafe detachMulticast = try symbols.required("ibv_detach_mcast")
        unsafe getAsyncEvent = try symbols.required("ibv_get_async_event")
        unsafe ackAsyncEvent = try symbols.required("ibv_ack_async_event")
    }
}
