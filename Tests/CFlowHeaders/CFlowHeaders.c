// SPDX-License-Identifier: Apache-2.0
#include "CFlowHeaders.h"

#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <linux/ethtool.h>
#include <string.h>

/// As `ibv_create_flow` takes them: packed behind each other.
struct request {
    uint8_t bytes[512];
    struct ibv_flow_attr attr;
    size_t length;
};

static void add(struct request *request, const void *specification, size_t length) {
    memcpy(request->bytes + request->length, specification, length);
    request->length += length;
    request->attr.num_of_specs++;
}
#define ADD(specification) add(request, &(specification), sizeof(specification))
#define SPEC(structure, kind) {.type = (enum ibv_flow_spec_type)(kind), .size = sizeof(struct structure)}

static void ethernet(struct request *request, int inner) {
    struct ibv_flow_spec_eth eth = SPEC(ibv_flow_spec_eth, IBV_FLOW_SPEC_ETH | inner);
    memcpy(eth.val.dst_mac, (uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
    memset(eth.mask.dst_mac, 0xFF, 6);
    memcpy(eth.val.src_mac, (uint8_t[]){0x66, 0x11, 0, 0, 0, 0}, 6);
    memcpy(eth.mask.src_mac, (uint8_t[]){0xFF, 0xFF, 0, 0, 0, 0}, 6);
    eth.val.ether_type = htons(0x88B5);
    eth.mask.ether_type = 0xFFFF;
    eth.val.vlan_tag = htons(100);
    eth.mask.vlan_tag = htons(0xFFF);
    ADD(eth);
}

static void ipv4(struct request *request, int inner) {
    struct ibv_flow_spec_ipv4 ip = SPEC(ibv_flow_spec_ipv4, IBV_FLOW_SPEC_IPV4 | inner);
    ip.val.src_ip = inet_addr("10.0.0.0");
    ip.mask.src_ip = inet_addr("255.255.255.0");
    ADD(ip);
}

static void ports(struct request *request, int type, uint16_t source, uint16_t destination) {
    struct ibv_flow_spec_tcp_udp ports = SPEC(ibv_flow_spec_tcp_udp, type);
    ports.val.dst_port = htons(destination);
    ports.mask.dst_port = destination ? 0xFFFF : 0;
    ports.val.src_port = htons(source);
    ports.mask.src_port = source ? 0xFFFF : 0;
    ADD(ports);
}

static void ipv6(struct request *request) {
    struct ibv_flow_spec_ipv6 ip = SPEC(ibv_flow_spec_ipv6, IBV_FLOW_SPEC_IPV6);
    inet_pton(AF_INET6, "2001:db8::1", ip.val.src_ip);
    memset(ip.mask.src_ip, 0xFF, 16);
    inet_pton(AF_INET6, "fe80::", ip.val.dst_ip);
    memset(ip.mask.dst_ip, 0xFF, 8);
    ip.val.flow_label = htonl(0xABCDE);
    ip.mask.flow_label = htonl(0xFFFFF);
    ip.val.traffic_class = 0x20;
    ip.mask.traffic_class = 0xFC;
    ip.val.hop_limit = 1;
    ip.mask.hop_limit = 0xFF;
    ADD(ip);
}

static void tag(struct request *request) {
    struct ibv_flow_spec_action_tag tag = SPEC(ibv_flow_spec_action_tag, IBV_FLOW_SPEC_ACTION_TAG);
    tag.tag_id = 7;
    ADD(tag);
}

static void encapsulations(struct request *request, enum flow_case which) {
    if (which == FLOW_VXLAN_INNER) {
        struct ibv_flow_spec_tunnel vxlan = SPEC(ibv_flow_spec_tunnel, IBV_FLOW_SPEC_VXLAN_TUNNEL);
        vxlan.val.tunnel_id = htonl(5000);
        vxlan.mask.tunnel_id = htonl(0xFFFFFF);
        ADD(vxlan);
        ethernet(request, IBV_FLOW_SPEC_INNER);
    } else {
        struct ibv_flow_spec_gre gre = SPEC(ibv_flow_spec_gre, IBV_FLOW_SPEC_GRE);
        gre.val.c_ks_res0_ver = htons(0x2000);
        gre.mask.c_ks_res0_ver = htons(0x2000);
        gre.val.protocol = htons(0x8847);
        gre.mask.protocol = 0xFFFF;
        gre.val.key = htonl(0x01020304);
        gre.mask.key = 0xFFFFFFFF;
        ADD(gre);
        struct ibv_flow_spec_mpls mpls = SPEC(ibv_flow_spec_mpls, IBV_FLOW_SPEC_MPLS);
        mpls.val.label = htonl(17u << 12);
        mpls.mask.label = htonl(0xFFFFF000);
        ADD(mpls);
        ipv4(request, IBV_FLOW_SPEC_INNER);
        ports(request, IBV_FLOW_SPEC_UDP | IBV_FLOW_SPEC_INNER, 0, 53);
    }
}

static void dropAndCount(struct request *request, uintptr_t counters) {
    struct ibv_flow_spec_action_drop drop = SPEC(ibv_flow_spec_action_drop, IBV_FLOW_SPEC_ACTION_DROP);
    struct ibv_flow_spec_counter_action count = SPEC(ibv_flow_spec_counter_action, IBV_FLOW_SPEC_ACTION_COUNT);
    count.counters = (struct ibv_counters *)counters;
    ADD(drop);
    ADD(count);
}

static void extended(struct request *request) {
    struct ibv_flow_spec_ipv4_ext ip = SPEC(ibv_flow_spec_ipv4_ext, IBV_FLOW_SPEC_IPV4_EXT);
    ip.val.dst_ip = inet_addr("192.168.1.9");
    ip.mask.dst_ip = 0xFFFFFFFF;
    ip.val.proto = 17;
    ip.mask.proto = 0xFF;
    ip.val.tos = 0xB8;
    ip.mask.tos = 0xFC;
    ip.val.ttl = 64;
    ip.mask.ttl = 0xFF;
    ip.val.flags = 0;
    ip.mask.flags = 4;
    ADD(ip);
}

size_t flow_attributes(enum flow_case which, uint8_t *bytes, size_t capacity, uintptr_t counters) {
    struct request storage = {.length = sizeof(struct ibv_flow_attr)}, *request = &storage;
    request->attr.port = 1;
    switch (which) {
    case FLOW_UDP4:
        request->attr.priority = 1;
        ipv4(request, 0);
        ports(request, IBV_FLOW_SPEC_UDP, 0, 7000);
        tag(request);
        break;
    case FLOW_ETHERNET:
        request->attr.flags = IBV_FLOW_ATTR_FLAGS_DONT_TRAP;
        request->attr.port = 2;
        ethernet(request, 0);
        break;
    case FLOW_IPV4_EXTENDED: extended(request); break;
    case FLOW_TCP6:
        request->attr.priority = 0x1234;
        ipv6(request);
        ports(request, IBV_FLOW_SPEC_TCP, 1024, 80);
        break;
    case FLOW_ESP: {
        ipv4(request, 0);
        struct ibv_flow_spec_esp esp = SPEC(ibv_flow_spec_esp, IBV_FLOW_SPEC_ESP);
        esp.val.spi = htonl(0xC0FFEE00);
        esp.mask.spi = 0xFFFFFFFF;
        esp.val.seq = htonl(1);
        esp.mask.seq = 0xFFFFFFFF;
        ADD(esp);
        break;
    }
    case FLOW_VXLAN_INNER:
    case FLOW_GRE_MPLS: encapsulations(request, which); break;
    case FLOW_DROP_COUNT:
        ipv4(request, 0);
        dropAndCount(request, counters);
        break;
    case FLOW_SNIFFER: request->attr.type = IBV_FLOW_ATTR_SNIFFER; break;
    case FLOW_ALL_DEFAULT: request->attr.type = IBV_FLOW_ATTR_ALL_DEFAULT; break;
    }
    request->attr.size = (uint16_t)request->length;
    memcpy(request->bytes, &request->attr, sizeof request->attr);
    if (request->length > capacity) return 0;
    memcpy(bytes, request->bytes, request->length);
    return request->length;
}

static void destination(struct ethtool_rx_flow_spec *fs) {
    fs->flow_type |= FLOW_MAC_EXT;
    memcpy(fs->h_ext.h_dest, (uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
    memset(fs->m_ext.h_dest, 0xFF, 6);
}

static void vlan(struct ethtool_rx_flow_spec *fs) {
    fs->flow_type |= FLOW_EXT;
    fs->h_ext.vlan_tci = htons(100);
    fs->m_ext.vlan_tci = htons(0xFFF);
}

static void ntuple6(struct ethtool_rx_flow_spec *fs, enum ntuple_case which) {
    inet_pton(AF_INET6, "2001:db8::1", fs->h_u.tcp_ip6_spec.ip6src);
    memset(fs->m_u.tcp_ip6_spec.ip6src, 0xFF, 16);
    if (which == NTUPLE_TCP6) {
        fs->flow_type = TCP_V6_FLOW;
        fs->h_u.tcp_ip6_spec.psrc = htons(1024);
        fs->m_u.tcp_ip6_spec.psrc = 0xFFFF;
        fs->h_u.tcp_ip6_spec.pdst = htons(80);
        fs->m_u.tcp_ip6_spec.pdst = 0xFFFF;
        fs->h_u.tcp_ip6_spec.tclass = 0x20;
        fs->m_u.tcp_ip6_spec.tclass = 0xFC;
    } else if (which == NTUPLE_ESP6) {
        fs->flow_type = ESP_V6_FLOW;
        fs->h_u.esp_ip6_spec.spi = htonl(0xC0FFEE00);
        fs->m_u.esp_ip6_spec.spi = 0xFFFFFFFF;
    } else {
        fs->flow_type = IPV6_USER_FLOW;
        fs->h_u.usr_ip6_spec.l4_proto = 132;
        fs->m_u.usr_ip6_spec.l4_proto = 0xFF;
        fs->ring_cookie = RX_CLS_FLOW_DISC;
    }
}

static void ntuple4(struct ethtool_rx_flow_spec *fs, enum ntuple_case which) {
    fs->h_u.tcp_ip4_spec.ip4src = inet_addr("10.0.0.0");
    fs->m_u.tcp_ip4_spec.ip4src = inet_addr("255.255.255.0");
    if (which == NTUPLE_UDP4) {
        fs->flow_type = UDP_V4_FLOW;
        fs->h_u.udp_ip4_spec.pdst = htons(7000);
        fs->m_u.udp_ip4_spec.pdst = 0xFFFF;
    } else if (which == NTUPLE_ESP4) {
        fs->flow_type = ESP_V4_FLOW;
        fs->h_u.esp_ip4_spec.spi = htonl(0xC0FFEE00);
        fs->m_u.esp_ip4_spec.spi = 0xFFFFFFFF;
    } else {
        fs->flow_type = IP_USER_FLOW;
        fs->h_u.usr_ip4_spec.ip_ver = ETH_RX_NFC_IP4;
        fs->h_u.usr_ip4_spec.proto = 47;
        fs->m_u.usr_ip4_spec.proto = 0xFF;
        fs->h_u.usr_ip4_spec.tos = 0x10;
        fs->m_u.usr_ip4_spec.tos = 0xFF;
        destination(fs);
        vlan(fs);
    }
}

size_t flow_ntuple(enum ntuple_case which, uint8_t *bytes, size_t capacity) {
    struct ethtool_rxnfc request;
    memset(&request, 0, sizeof request);
    request.cmd = ETHTOOL_SRXCLSRLINS;
    struct ethtool_rx_flow_spec *fs = &request.fs;
    fs->location = RX_CLS_LOC_ANY;
    fs->ring_cookie = 5;
    switch (which) {
    case NTUPLE_UDP4:
        fs->location = 3;
        ntuple4(fs, which);
        break;
    case NTUPLE_IPV4_WITH_MAC_AND_TAG:
    case NTUPLE_ESP4: ntuple4(fs, which); break;
    case NTUPLE_TCP6:
    case NTUPLE_ESP6:
    case NTUPLE_IPV6_DROP: ntuple6(fs, which); break;
    case NTUPLE_ETHERNET:
        fs->flow_type = ETHER_FLOW;
        memcpy(fs->h_u.ether_spec.h_dest, (uint8_t[]){2, 0, 0, 0, 0, 1}, 6);
        memset(fs->m_u.ether_spec.h_dest, 0xFF, 6);
        fs->h_u.ether_spec.h_proto = htons(0x88B5);
        fs->m_u.ether_spec.h_proto = 0xFFFF;
        vlan(fs);
        break;
    }
    if (sizeof request > capacity) return 0;
    memcpy(bytes, &request, sizeof request);
    return sizeof request;
}
