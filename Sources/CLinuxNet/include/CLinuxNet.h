// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "clinuxnet_socket.h"
#include "crc.h"
