// SPDX-License-Identifier: Apache-2.0

// No code: the assertions that pin the mirrored structures, which need the declarations that _GNU_SOURCE opens.
#define _GNU_SOURCE
#include "CLinuxNet.h"

_Static_assert(sizeof(struct clinuxnet_mmsghdr) == sizeof(struct mmsghdr), "mmsghdr");
_Static_assert(offsetof(struct clinuxnet_mmsghdr, msg_len) == offsetof(struct mmsghdr, msg_len), "mmsghdr.msg_len");
_Static_assert(sizeof(struct clinuxnet_ucred) == sizeof(struct ucred), "ucred");
_Static_assert(offsetof(struct clinuxnet_ucred, uid) == offsetof(struct ucred, uid), "ucred.uid");
_Static_assert((int)CLINUXNET_SCM_CREDENTIALS == SCM_CREDENTIALS, "SCM_CREDENTIALS");
_Static_assert((int)CLINUXNET_IP_PMTUDISC_PROBE == IP_PMTUDISC_PROBE, "IP_PMTUDISC_PROBE");
_Static_assert((int)CLINUXNET_IP_MULTICAST_ALL == IP_MULTICAST_ALL, "IP_MULTICAST_ALL");
_Static_assert((int)CLINUXNET_IPV6_MULTICAST_ALL == IPV6_MULTICAST_ALL, "IPV6_MULTICAST_ALL");
_Static_assert((int)CLINUXNET_F_ADD_SEALS == F_ADD_SEALS, "F_ADD_SEALS");
_Static_assert((int)CLINUXNET_F_GET_SEALS == F_GET_SEALS, "F_GET_SEALS");
_Static_assert((int)CLINUXNET_F_SEAL_SIZE == (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW), "F_SEAL_*");
