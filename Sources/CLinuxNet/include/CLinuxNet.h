// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "clinuxnet_bpf.h"
#include "clinuxnet_guard.h"
#include "clinuxnet_memory.h"
#include "clinuxnet_packet.h"
#include "clinuxnet_prefetch.h"
#include "clinuxnet_socket.h"
#include "clinuxnet_ticks.h"
#include "clinuxnet_tuples.h"
#include "clinuxnet_xdp.h"
#include "crc.h"
