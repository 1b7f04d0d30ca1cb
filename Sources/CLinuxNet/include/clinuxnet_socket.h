// SPDX-License-Identifier: Apache-2.0
#pragma once

// Sockets, epoll and eventfd. Every shim is a macro that Swift cannot import, a variadic function, or a constant whose
// imported type depends on the C library (an enum in one, a macro in another). No shim decides anything.
//
// The C library's headers are included as they are by default, without _GNU_SOURCE: with it fd_set gets other members
// than in Swift's own Glibc module, and the two cannot be imported together. What is only declared with _GNU_SOURCE is
// mirrored here; CLinuxNet.c asserts that the mirrors are true.

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <net/if.h>
#include <poll.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/if_packet.h>

// The offsets that SocketAddress.swift writes at.
_Static_assert(sizeof(struct sockaddr_in) == 16, "sockaddr_in");
_Static_assert(offsetof(struct sockaddr_in, sin_port) == 2, "sin_port");
_Static_assert(offsetof(struct sockaddr_in, sin_addr) == 4, "sin_addr");
_Static_assert(sizeof(struct sockaddr_in6) == 28, "sockaddr_in6");
_Static_assert(offsetof(struct sockaddr_in6, sin6_port) == 2, "sin6_port");
_Static_assert(offsetof(struct sockaddr_in6, sin6_addr) == 8, "sin6_addr");
_Static_assert(offsetof(struct sockaddr_in6, sin6_scope_id) == 24, "sin6_scope_id");
_Static_assert(offsetof(struct sockaddr_un, sun_path) == 2, "sun_path");

// A control message with a traffic class is a byte of IPv4 and an int of IPv6: its first byte serves both.
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "little-endian");

// Constants: kernel numbers (include/uapi), spelled here because netinet/udp.h and linux/in6.h cannot be included
// together with the headers above on every C library, and because enum constants import with differing Swift types.
enum clinuxnet_constant {
    CLINUXNET_SOL_UDP = 17,
    CLINUXNET_UDP_NO_CHECK6_RX = 102,
    CLINUXNET_UDP_SEGMENT = 103,
    CLINUXNET_UDP_GRO = 104,
    CLINUXNET_IP_PMTUDISC_PROBE = 3,
    CLINUXNET_IP_MULTICAST_ALL = 49,
    CLINUXNET_IPV6_MULTICAST_ALL = 29,
    CLINUXNET_SCM_CREDENTIALS = 2,
    CLINUXNET_SO_BINDTODEVICE = SO_BINDTODEVICE,
    CLINUXNET_SCM_TIMESTAMPNS = SO_TIMESTAMPNS, // the same number, on 64-bit machines
    CLINUXNET_F_ADD_SEALS = 1033,
    CLINUXNET_F_GET_SEALS = 1034,
    CLINUXNET_F_SEAL_SIZE = 7, // F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
};

/// struct mmsghdr.
struct clinuxnet_mmsghdr {
    struct msghdr msg_hdr;
    unsigned int msg_len;
};
/// struct ucred, the payload of SCM_CREDENTIALS.
struct clinuxnet_ucred {
    int32_t pid;
    uint32_t uid;
    uint32_t gid;
};

/// SO_RCVBUFFORCE and SO_SNDBUFFORCE differ between architectures: take the header's.
static const int clinuxnet_so_rcvbufforce = SO_RCVBUFFORCE;
static const int clinuxnet_so_sndbufforce = SO_SNDBUFFORCE;
static const int clinuxnet_so_reuseport = SO_REUSEPORT;
static const int clinuxnet_so_attach_filter = SO_ATTACH_FILTER;
static const int clinuxnet_so_attach_reuseport_cbpf = SO_ATTACH_REUSEPORT_CBPF;
static const int clinuxnet_so_passcred = SO_PASSCRED;
static const int clinuxnet_so_peercred = SO_PEERCRED;
static const int clinuxnet_so_lock_filter = SO_LOCK_FILTER;
static const int clinuxnet_so_netns_cookie = 71; // SO_NETNS_COOKIE, Linux 5.14, younger than some C libraries

/// SOCK_* are members of an enum in glibc and macros elsewhere.
static const int clinuxnet_sock_datagram = SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK;
static const int clinuxnet_sock_raw = SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK;
static const int clinuxnet_sock_message = SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK;
static const int clinuxnet_message_dontwait = MSG_DONTWAIT;
static const int clinuxnet_message_truncated = MSG_TRUNC;
static const int clinuxnet_scm_rights = SCM_RIGHTS;
static const int clinuxnet_message_control_truncated = MSG_CTRUNC;
static const int clinuxnet_interface_up = IFF_UP;
static const int clinuxnet_interface_running = IFF_RUNNING;
static const int clinuxnet_interface_loopback = IFF_LOOPBACK;
static const int clinuxnet_interface_multicast = IFF_MULTICAST;
static const int clinuxnet_interface_pointtopoint = IFF_POINTOPOINT;

/// The CMSG_* macros compute addresses inside the caller's buffer.
static inline struct cmsghdr *_Nullable clinuxnet_cmsg_first(const struct msghdr *_Nonnull message) {
    return CMSG_FIRSTHDR(message);
}
static inline struct cmsghdr *_Nullable clinuxnet_cmsg_next(
    struct msghdr *_Nonnull message, struct cmsghdr *_Nonnull header) {
    return CMSG_NXTHDR(message, header);
}
static inline void *_Nonnull clinuxnet_cmsg_data(struct cmsghdr *_Nonnull header) { return CMSG_DATA(header); }
static inline size_t clinuxnet_cmsg_space(size_t length) { return CMSG_SPACE(length); }
static inline size_t clinuxnet_cmsg_length(size_t length) { return CMSG_LEN(length); }

/// sendto takes a transparent union in glibc. The calls on many messages are declared with _GNU_SOURCE only.
static inline ssize_t clinuxnet_sendto(
    int descriptor, const void *_Nonnull bytes, size_t length, const void *_Nonnull address, uint32_t address_length) {
    return sendto(descriptor, bytes, length, MSG_DONTWAIT, (const struct sockaddr *)address, address_length);
}
static inline int clinuxnet_sendmmsg(int descriptor, struct clinuxnet_mmsghdr *_Nonnull messages, unsigned count) {
    return (int)syscall(SYS_sendmmsg, descriptor, messages, count, MSG_DONTWAIT);
}
static inline int clinuxnet_recvmmsg(int descriptor, struct clinuxnet_mmsghdr *_Nonnull messages, unsigned count) {
    return (int)syscall(SYS_recvmmsg, descriptor, messages, count, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL);
}
/// For sockets over which no descriptors come; AF_PACKET refuses the flag for them.
static inline int clinuxnet_recvmmsg_plain(int descriptor, struct clinuxnet_mmsghdr *_Nonnull messages, unsigned count) {
    return (int)syscall(SYS_recvmmsg, descriptor, messages, count, MSG_DONTWAIT, NULL);
}
static inline ssize_t clinuxnet_recvmsg(int descriptor, struct msghdr *_Nonnull message) {
    return recvmsg(descriptor, message, MSG_DONTWAIT);
}
static inline ssize_t clinuxnet_sendmsg(int descriptor, const struct msghdr *_Nonnull message) {
    return sendmsg(descriptor, message, MSG_DONTWAIT);
}
/// To a peer that may be gone, without SIGPIPE; and from one that may pass descriptors.
static inline ssize_t clinuxnet_sendmsg_quiet(int descriptor, const struct msghdr *_Nonnull message) {
    return sendmsg(descriptor, message, MSG_DONTWAIT | MSG_NOSIGNAL);
}
static inline ssize_t clinuxnet_recvmsg_closing(int descriptor, struct msghdr *_Nonnull message) {
    return recvmsg(descriptor, message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
}
/// accept4 is declared with _GNU_SOURCE only.
static inline int clinuxnet_accept(int descriptor) {
    return (int)syscall(SYS_accept4, descriptor, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}
static inline int clinuxnet_bind(int descriptor, const void *_Nonnull address, uint32_t length) {
    return bind(descriptor, (const struct sockaddr *)address, length);
}
static inline int clinuxnet_connect(int descriptor, const void *_Nonnull address, uint32_t length) {
    return connect(descriptor, (const struct sockaddr *)address, length);
}
/// The port that a bound socket got, in host order; 0 if it has none.
static inline uint16_t clinuxnet_local_port(int descriptor) {
    struct sockaddr_in6 address;
    socklen_t length = sizeof address;
    memset(&address, 0, sizeof address);
    if (getsockname(descriptor, (struct sockaddr *)&address, &length) != 0) return 0;
    return ntohs(address.sin6_port); // the same place in sockaddr_in: asserted above
}

/// epoll_event's payload is a union: only its 64-bit member is used here.
static inline int clinuxnet_epoll_control(int epoll, int operation, int descriptor, uint32_t events, uint64_t token) {
    struct epoll_event event = {.events = events, .data = {.u64 = token}};
    return epoll_ctl(epoll, operation, descriptor, &event);
}
static inline uint64_t clinuxnet_epoll_token(const struct epoll_event *_Nonnull event) { return event->data.u64; }
/// Flags of an enum type in glibc.
static const int clinuxnet_epoll_close_on_exec = EPOLL_CLOEXEC;
static const int clinuxnet_eventfd_flags = EFD_CLOEXEC | EFD_NONBLOCK;
static const int clinuxnet_eventfd_counting = EFD_CLOEXEC | EFD_SEMAPHORE;

/// `struct pollfd` belongs to another module of the C library, which does not go together with this one.
static inline int clinuxnet_is_readable(int descriptor) {
    struct pollfd poller = {.fd = descriptor, .events = POLLIN};
    return poll(&poller, 1, 0) == 1;
}
static inline int clinuxnet_wait_readable(int descriptor, int milliseconds) {
    struct pollfd poller = {.fd = descriptor, .events = POLLIN};
    return poll(&poller, 1, milliseconds) == 1;
}
/// Sleeps; for control calls that the kernel asks to repeat.
static inline void clinuxnet_pause_milliseconds(int milliseconds) { (void)poll(NULL, 0, milliseconds); }
static const int clinuxnet_epoll_add = EPOLL_CTL_ADD;
static const int clinuxnet_epoll_modify = EPOLL_CTL_MOD;
static const int clinuxnet_epoll_delete = EPOLL_CTL_DEL;
static const uint32_t clinuxnet_epoll_in = EPOLLIN;
static const uint32_t clinuxnet_epoll_out_once = EPOLLOUT | EPOLLONESHOT;

/// epoll_pwait2 (Linux 5.11) through syscall(2), which is variadic; glibc has a wrapper from 2.35 on only. -1 with
/// ENOSYS on an older kernel.
static inline int clinuxnet_epoll_wait_nanoseconds(
    int epoll, struct epoll_event *_Nonnull events, int capacity, int64_t timeout_nanoseconds) {
#ifdef SYS_epoll_pwait2
    struct timespec timeout = {
        .tv_sec = timeout_nanoseconds / 1000000000, .tv_nsec = timeout_nanoseconds % 1000000000};
    return (int)syscall(
        SYS_epoll_pwait2, epoll, events, capacity, timeout_nanoseconds < 0 ? NULL : &timeout, NULL, 8);
#else
    errno = ENOSYS;
    return -1;
#endif
}

/// CLOCK_* import with a type of the C library's choosing.
static inline uint64_t clinuxnet_monotonic_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
static inline uint64_t clinuxnet_realtime_nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/// ioctl is variadic, and ifreq's members are macros over a union. Returns the MTU, or -1 with errno.
static inline int clinuxnet_interface_mtu(int descriptor, const char *_Nonnull name) {
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    return ioctl(descriptor, SIOCGIFMTU, &request) == 0 ? request.ifr_mtu : -1;
}
/// The Ethernet address into `address` (6 bytes); returns the ARPHRD_* type, or -1 with errno.
static inline int clinuxnet_interface_hardware(int descriptor, const char *_Nonnull name, uint8_t *_Nonnull address) {
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(descriptor, SIOCGIFHWADDR, &request) != 0) return -1;
    memcpy(address, request.ifr_hwaddr.sa_data, 6);
    return request.ifr_hwaddr.sa_family;
}
/// ifa_addr's family; ifaddrs imports with a pointer to the union-like sockaddr.
static inline int clinuxnet_address_family(const struct sockaddr *_Nullable address) {
    return address ? address->sa_family : AF_UNSPEC;
}

/// errno is a macro.
static inline int clinuxnet_errno(void) { return errno; }

/// memfd_create is declared with _GNU_SOURCE only, and fcntl is variadic. A file of `length` bytes that nobody can make
/// shorter or longer, so that no access to a mapping of it can fail; -1 with errno.
static inline int clinuxnet_sealed_memory(const char *_Nonnull name, int64_t length) {
    int descriptor = (int)syscall(SYS_memfd_create, name, 3u); // MFD_CLOEXEC | MFD_ALLOW_SEALING
    if (descriptor < 0) return -1;
    if (ftruncate(descriptor, length) == 0 && fcntl(descriptor, CLINUXNET_F_ADD_SEALS, CLINUXNET_F_SEAL_SIZE) == 0)
        return descriptor;
    int code = errno;
    close(descriptor);
    errno = code;
    return -1;
}
/// The length of a file that is sealed so; -1 for any other.
static inline int64_t clinuxnet_sealed_length(int descriptor) {
    struct stat status;
    int seals = fcntl(descriptor, CLINUXNET_F_GET_SEALS);
    if (seals < 0 || (seals & CLINUXNET_F_SEAL_SIZE) != CLINUXNET_F_SEAL_SIZE) return -1;
    return fstat(descriptor, &status) == 0 ? (int64_t)status.st_size : -1;
}
/// A shared mapping of a whole file, or NULL: MAP_FAILED is a cast.
static inline void *_Nullable clinuxnet_map_shared(int descriptor, size_t length, int is_writable) {
    void *memory = mmap(NULL, length, is_writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, descriptor, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/// open(2) is variadic.
static inline int clinuxnet_create_file(const char *_Nonnull path) {
    return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
}

/// A socket of UDP from the kernel itself: under librdmacm's librspreload.so, socket(2) would give us one of our own rsockets. syscall(2) is
/// variadic, which Swift cannot call.
static inline int clinuxnet_udp_socket(int family) {
    return (int)syscall(SYS_socket, (long)family, (long)clinuxnet_sock_datagram, 0L);
}
