// SPDX-License-Identifier: Apache-2.0
#pragma once

// AF_PACKET sockets and their rings. Layouts and numbers of include/uapi/linux/if_packet.h and filter.h.

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/if_packet.h>

enum clinuxnet_packet_constant {
    CLINUXNET_SOL_PACKET = 263,
    CLINUXNET_PACKET_RX_RING = 5,
    CLINUXNET_PACKET_STATISTICS = 6,
    CLINUXNET_PACKET_AUXDATA = 8,
    CLINUXNET_PACKET_VERSION = 10,
    CLINUXNET_PACKET_RESERVE = 12,
    CLINUXNET_PACKET_VNET_HDR = 15,
    CLINUXNET_PACKET_QDISC_BYPASS = 20,
    CLINUXNET_PACKET_IGNORE_OUTGOING = 23,
    CLINUXNET_ETH_P_ALL = 3,
};
_Static_assert((int)CLINUXNET_PACKET_RX_RING == PACKET_RX_RING, "PACKET_RX_RING");
_Static_assert((int)CLINUXNET_PACKET_STATISTICS == PACKET_STATISTICS, "PACKET_STATISTICS");
_Static_assert((int)CLINUXNET_PACKET_VERSION == PACKET_VERSION, "PACKET_VERSION");
_Static_assert((int)CLINUXNET_PACKET_AUXDATA == PACKET_AUXDATA, "PACKET_AUXDATA");
_Static_assert(offsetof(struct tpacket_auxdata, tp_vlan_tci) == 16, "tpacket_auxdata.tp_vlan_tci");
_Static_assert(offsetof(struct tpacket_auxdata, tp_vlan_tpid) == 18, "tpacket_auxdata.tp_vlan_tpid");
_Static_assert((int)CLINUXNET_PACKET_RESERVE == PACKET_RESERVE, "PACKET_RESERVE");
_Static_assert((int)CLINUXNET_PACKET_VNET_HDR == PACKET_VNET_HDR, "PACKET_VNET_HDR");
_Static_assert((int)CLINUXNET_PACKET_QDISC_BYPASS == PACKET_QDISC_BYPASS, "PACKET_QDISC_BYPASS");
_Static_assert((int)CLINUXNET_PACKET_IGNORE_OUTGOING == PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING");

// The offsets that PacketRing.swift reads at.
_Static_assert(offsetof(struct tpacket2_hdr, tp_snaplen) == 8, "tpacket2_hdr.tp_snaplen");
_Static_assert(offsetof(struct tpacket2_hdr, tp_mac) == 12, "tpacket2_hdr.tp_mac");
_Static_assert(offsetof(struct tpacket3_hdr, tp_next_offset) == 0, "tpacket3_hdr.tp_next_offset");
_Static_assert(offsetof(struct tpacket3_hdr, tp_snaplen) == 12, "tpacket3_hdr.tp_snaplen");
_Static_assert(offsetof(struct tpacket2_hdr, tp_len) == 4, "tpacket2_hdr.tp_len");
_Static_assert(offsetof(struct tpacket2_hdr, tp_sec) == 16, "tpacket2_hdr.tp_sec");
_Static_assert(offsetof(struct tpacket2_hdr, tp_vlan_tci) == 24, "tpacket2_hdr.tp_vlan_tci");
_Static_assert(offsetof(struct tpacket2_hdr, tp_vlan_tpid) == 26, "tpacket2_hdr.tp_vlan_tpid");
_Static_assert(offsetof(struct tpacket3_hdr, tp_sec) == 4, "tpacket3_hdr.tp_sec");
_Static_assert(offsetof(struct tpacket3_hdr, tp_len) == 16, "tpacket3_hdr.tp_len");
_Static_assert(offsetof(struct tpacket3_hdr, tp_status) == 20, "tpacket3_hdr.tp_status");
_Static_assert(offsetof(struct tpacket3_hdr, tp_mac) == 24, "tpacket3_hdr.tp_mac");
_Static_assert(offsetof(struct tpacket3_hdr, hv1.tp_vlan_tci) == 32, "tpacket3_hdr.hv1.tp_vlan_tci");
_Static_assert(offsetof(struct tpacket3_hdr, hv1.tp_vlan_tpid) == 36, "tpacket3_hdr.hv1.tp_vlan_tpid");
_Static_assert(TP_STATUS_VLAN_VALID == 0x10, "TP_STATUS_VLAN_VALID");
_Static_assert(TP_STATUS_VLAN_TPID_VALID == 0x40, "TP_STATUS_VLAN_TPID_VALID");
_Static_assert(offsetof(struct tpacket_block_desc, hdr.bh1.block_status) == 8, "block_status");
_Static_assert(offsetof(struct tpacket_block_desc, hdr.bh1.num_pkts) == 12, "num_pkts");
_Static_assert(offsetof(struct tpacket_block_desc, hdr.bh1.offset_to_first_pkt) == 16, "offset_to_first_pkt");

/// sockaddr_ll. A protocol in host order; 0 receives nothing.
static inline int clinuxnet_packet_bind(int descriptor, int interface, uint16_t protocol) {
    struct sockaddr_ll address;
    memset(&address, 0, sizeof address);
    address.sll_family = AF_PACKET;
    address.sll_protocol = (uint16_t)(protocol << 8 | protocol >> 8);
    address.sll_ifindex = interface;
    return bind(descriptor, (const struct sockaddr *)&address, sizeof address);
}
