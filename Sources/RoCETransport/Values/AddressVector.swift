// SPDX-License-Identifier: Apache-2.0
import RoCEWire

/// Where a packet goes and from which of our addresses: what `ibv_ah_attr` says, by value.
///
/// A UD send carries one in its work request, so the engine holds no address handles and their lifetime is no concern.
public struct AddressVector: Sendable, Equatable {
    /// The remote address.
    public var destination: GID
    /// Flow label, 20 bits (IPv6).
    public var flowLabel: UInt32
    /// Index of the local address in the engine's table (the source GID index).
    public var localIndex: UInt8
    /// IPv4 TOS or IPv6 traffic class.
    public var trafficClass: UInt8
    /// IPv4 TTL or IPv6 hop limit.
    public var hopLimit: UInt8
    /// Service level; kept to be queried.
    public var serviceLevel: UInt8

    /// A value with these fields; the rest is zero.
    @inlinable
    public init(
        destination: GID, localIndex: UInt8, trafficClass: UInt8 = 0, hopLimit: UInt8 = 64, serviceLevel: UInt8 = 0,
        flowLabel: UInt32 = 0
    ) {
        self.destination = destination
        self.flowLabel = flowLabel
        self.localIndex = localIndex
        self.trafficClass = trafficClass
        self.hopLimit = hopLimit
        self.serviceLevel = serviceLevel
    }
}
