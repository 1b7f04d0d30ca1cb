// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// The functions of librdmacm.so.1, found by name when the library is loaded; it is never unloaded.
///
/// It links libibverbs.so.1 itself, so both libraries speak of the same contexts.
@safe struct LibRDMACM: @unchecked Sendable {  // Function pointers, constant after loading.
    typealias Channel = UnsafeMutablePointer<rdma_event_channel>
    typealias Identifier = UnsafeMutablePointer<rdma_cm_id>
    typealias Event = UnsafeMutablePointer<rdma_cm_event>
    typealias Parameters = UnsafeMutablePointer<rdma_conn_param>
    typealias Address = UnsafeMutablePointer<sockaddr>
    typealias Raw = UnsafeMutableRawPointer

    let createEventChannel: @convention(c) () -> Channel?
    let destroyEventChannel: @convention(c) (Channel) -> Void
    let getEvent: @convention(c) (Channel, UnsafeMutablePointer<Event?>) -> Int32
    let ackEvent: @convention(c) (Event) -> Int32
    let createID: @convention(c) (Channel, UnsafeMutablePointer<Identifier?>, Raw?, rdma_port_space) -> Int32
    let destroyID: @convention(c) (Identifier) -> Int32
    let setOption: @convention(c) (Identifier, Int32, Int32, Raw, Int) -> Int32
    let bind: @convention(c) (Identifier, Address) -> Int32
    let listen: @convention(c) (Identifier, Int32) -> Int32
    let accept: @convention(c) (Identifier, Parameters) -> Int32
    let reject: @convention(c) (Identifier, UnsafeRawPointer?, UInt8) -> Int32
    let resolveAddress: @convention(c) (Identifier, Address?, Address, Int32) -> Int32
    let resolveRoute: @convention(c) (Identifier, Int32) -> Int32
    let connect: @convention(c) (Identifier, Parameters) -> Int32
    /// Since rdma-core 20.
    let establish: (@convention(c) (Identifier) -> Int32)?
    let disconnect: @convention(c) (Identifier) -> Int32
    let notify: @convention(c) (Identifier, ibv_event_type) -> Int32
    /// Since rdma-core 20; before, it was inside the library only.
    let initQPAttributes:
        (@convention(c) (Identifier, UnsafeMutablePointer<ibv_qp_attr>, UnsafeMutablePointer<Int32>) -> Int32)?
    let joinMulticast: @convention(c) (Identifier, Address, Raw?) -> Int32
    let leaveMulticast: @convention(c) (Identifier, Address) -> Int32

    static func load() -> Result<LibRDMACM, LoadError> {
        do throws(LoadError) {
            return .success(
                try LibRDMACM(
                    LibrarySymbols(of: "librdmacm.so.1", oldest: "rdma-core 15", packages: "librdmacm1")))
        } catch {
            return .failure(error)
        }
    }

    private init(_ symbols: LibrarySymbols) throws(LoadError) {
        unsafe createEventChannel = try symbols.required("rdma_create_event_channel")
        unsafe destroyEventChannel = try symbols.required("rdma_destroy_event_channel")
        unsafe getEvent = try symbols.required("rdma_get_cm_event")
        unsafe ackEvent = try symbols.required("rdma_ack_cm_event")
        unsafe createID = try symbols.required("rdma_create_id")
        unsafe destroyID = try symbols.required("rdma_destroy_id")
        unsafe setOption = try symbols.required("rdma_set_option")
        unsafe bind = try symbols.required("rdma_bind_addr")
        unsafe listen = try symbols.required("rdma_listen")
        unsafe accept = try symbols.required("rdma_accept")
        unsafe reject = try symbols.required("rdma_reject")
        unsafe resolveAddress = try symbols.required("rdma_resolve_addr")
        unsafe resolveRoute = try symbols.required("rdma_resolve_route")
        unsafe connect = try symbols.required("rdma_connect")
        unsafe establish = symbols.optional("rdma_establish")
        unsafe disconnect = try symbols.required("rdma_disconnect")
        unsafe notify = try symbols.required("rdma_notify")
        unsafe initQPAttributes = symbols.optional("rdma_init_qp_attr")
        unsafe joinMulticast = try symbols.required("rdma_join_multicast")
        unsafe leaveMulticast = try symbols.required("rdma_leave_multicast")
    }
}
