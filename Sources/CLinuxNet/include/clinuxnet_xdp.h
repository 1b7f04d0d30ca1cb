// SPDX-License-Identifier: Apache-2.0
#pragma once

// AF_XDP sockets, and what the kernel tells of an interface's driver. if_xdp.h is mirrored: older headers lack parts.

#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/ethtool.h>
#include <linux/if_xdp.h>
#include <linux/sockios.h>
#include <net/if.h>

/// Kernel numbers (include/uapi/linux/if_xdp.h; AF_XDP and SOL_XDP of socket.h).
enum clinuxnet_xdp_constant {
    CLINUXNET_AF_XDP = 44,
    CLINUXNET_SOL_XDP = 283,
    CLINUXNET_XDP_MMAP_OFFSETS = 1,
    CLINUXNET_XDP_RX_RING = 2,
    CLINUXNET_XDP_TX_RING = 3,
    CLINUXNET_XDP_UMEM_REG = 4,
    CLINUXNET_XDP_UMEM_FILL_RING = 5,
    CLINUXNET_XDP_UMEM_COMPLETION_RING = 6,
    CLINUXNET_XDP_STATISTICS = 7,
    CLINUXNET_XDP_OPTIONS = 8,
    CLINUXNET_XDP_OPTIONS_ZEROCOPY = 1,
    CLINUXNET_XDP_COPY = 1 << 1,
    CLINUXNET_XDP_ZEROCOPY = 1 << 2,
    CLINUXNET_XDP_USE_NEED_WAKEUP = 1 << 3,
    CLINUXNET_XDP_USE_SG = 1 << 4,
    CLINUXNET_XDP_RING_NEED_WAKEUP = 1,
    CLINUXNET_XDP_PACKET_CONTINUES = 1, // XDP_PKT_CONTD
    CLINUXNET_XDP_HEADROOM = 256,       // XDP_PACKET_HEADROOM
};
_Static_assert((int)CLINUXNET_XDP_UMEM_REG == XDP_UMEM_REG, "XDP_UMEM_REG");
_Static_assert((int)CLINUXNET_XDP_MMAP_OFFSETS == XDP_MMAP_OFFSETS, "XDP_MMAP_OFFSETS");
_Static_assert((int)CLINUXNET_XDP_STATISTICS == XDP_STATISTICS, "XDP_STATISTICS");
_Static_assert((int)CLINUXNET_XDP_USE_NEED_WAKEUP == XDP_USE_NEED_WAKEUP, "XDP_USE_NEED_WAKEUP");
_Static_assert(sizeof(struct xdp_desc) == 16, "xdp_desc");

/// Where mmap(2) finds a ring: 64-bit macros.
static const int64_t clinuxnet_xdp_offset_receive = 0;
static const int64_t clinuxnet_xdp_offset_transmit = 0x80000000;
static const int64_t clinuxnet_xdp_offset_fill = 0x100000000;
static const int64_t clinuxnet_xdp_offset_completion = 0x180000000;

/// SOCK_RAW is a member of an enum in glibc.
static inline int clinuxnet_xdp_socket(void) { return socket(CLINUXNET_AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0); }
/// sockaddr_xdp.
static inline int clinuxnet_xdp_bind(int descriptor, uint32_t interface, uint32_t queue, uint16_t flags) {
    struct sockaddr_xdp address;
    memset(&address, 0, sizeof address);
    address.sxdp_family = CLINUXNET_AF_XDP;
    address.sxdp_ifindex = interface;
    address.sxdp_queue_id = queue;
    address.sxdp_flags = flags;
    return bind(descriptor, (const struct sockaddr *)&address, sizeof address);
}
/// Asks the kernel to look at the rings. sendto takes a transparent union in glibc.
static inline int clinuxnet_xdp_kick_transmit(int descriptor) {
    return (int)sendto(descriptor, NULL, 0, MSG_DONTWAIT, NULL, 0);
}
static inline int clinuxnet_xdp_kick_receive(int descriptor) {
    return (int)recvfrom(descriptor, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}
/// A ring of a socket, or NULL: MAP_FAILED is a cast.
static inline void *_Nullable clinuxnet_map_ring(int descriptor, size_t length, int64_t offset) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, offset);
    return memory == MAP_FAILED ? NULL : memory;
}
/// Memory that a child process shares, so that no page is copied from under the kernel; or NULL.
static inline void *_Nullable clinuxnet_map_memory(size_t length) {
    void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/// ioctl is variadic, and ifreq's members are macros over a union. The driver's name into `name` (32 bytes); -1 with errno.
static inline int clinuxnet_interface_driver(int descriptor, const char *_Nonnull interface, char *_Nonnull name) {
    struct ethtool_drvinfo information;
    struct ifreq request;
    memset(&information, 0, sizeof information);
    memset(&request, 0, sizeof request);
    information.cmd = ETHTOOL_GDRVINFO;
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    request.ifr_data = (char *)&information;
    if (ioctl(descriptor, SIOCETHTOOL, &request) != 0) return -1;
    memcpy(name, information.driver, sizeof information.driver);
    name[sizeof information.driver - 1] = 0;
    return 0;
}
/// How many queues receive; -1 with errno where the driver does not say.
static inline int clinuxnet_interface_receive_queues(int descriptor, const char *_Nonnull interface) {
    struct ethtool_channels channels;
    struct ifreq request;
    memset(&channels, 0, sizeof channels);
    memset(&request, 0, sizeof request);
    channels.cmd = ETHTOOL_GCHANNELS;
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    request.ifr_data = (char *)&channels;
    if (ioctl(descriptor, SIOCETHTOOL, &request) != 0) return -1;
    return (int)(channels.rx_count + channels.combined_count);
}

/// A request about the filters of an adapter: the bytes of `struct ethtool_rxnfc`, which the driver may change; -1 with errno.
static inline int clinuxnet_interface_filter(int descriptor, const char *_Nonnull interface, void *_Nonnull filter) {
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strncpy(request.ifr_name, interface, IFNAMSIZ - 1);
    request.ifr_data = (char *)filter;
    return ioctl(descriptor, SIOCETHTOOL, &request);
}

/// The effective capabilities of the calling thread, one bit each (capget(2) has no wrapper in the C library).
static inline uint64_t clinuxnet_effective_capabilities(void) {
    struct {
        uint32_t version;
        int32_t pid;
    } header = {0x20080522, 0}; // _LINUX_CAPABILITY_VERSION_3
    struct {
        uint32_t effective, permitted, inheritable;
    } data[2];
    memset(data, 0, sizeof data);
    if (syscall(SYS_capget, &header, data) != 0) return 0;
    return (uint64_t)data[1].effective << 32 | data[0].effective;
}
