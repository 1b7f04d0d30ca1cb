// SPDX-License-Identifier: Apache-2.0
import Glibc
import VerbsABI

/// What a failed call of the connection manager means.
enum ConnectionDiagnosis {
    static func error(_ error: ProviderError, address: SocketAddress? = nil) -> VerbsError {
        let (cause, remedy): (VerbsError.Cause, String) =
            switch error.code {
            case EADDRINUSE:
                (.addressInUse, "Choose another port, or port 0 and ask for the one that was bound")
            case EADDRNOTAVAIL:
                (
                    .invalidAttribute,
                    "Give an address of this machine, or the wildcard; for a group, one that was joined"
                )
            case ENODEV:
                (
                    .noDevice,
                    "No RDMA device has that address: `verbs info` lists the addresses of each device"
                )
            case EINVAL:
                (
                    .invalidTransition,
                    "The identifier is not in the state for this call, or an address or depth is not valid"
                )
            case ETIMEDOUT: (.timedOut, "Nobody answered in time; try again, or give it longer")
            case ENETUNREACH, EHOSTUNREACH: (.unreachable, "Check the route to the address: `ip route get`")
            case EACCES, EPERM:
                (.permission, "Check the permissions of /dev/infiniband/rdma_cm, and use a port above 1023")
            case ENOSYS, EOPNOTSUPP: (.unsupported, "Use another device, or exchange endpoints by other means")
            default: (.system, "")
            }
        return VerbsError(
            cause, verb: error.function.description, code: error.code,
            subject: error.detail ?? (address == nil ? nil : "address"), value: address?.description, remedy: remedy)
    }
}
