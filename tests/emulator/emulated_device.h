// The twin of kernels/device.cuh for a CPU: the same names, so that a host compiler takes every kernel as it is.
//
// One fiber a CUDA thread, real shared-memory addresses, warp-wide operations, copies that land early or late. It sees
// deadlocks, divergence, bad addresses, bad launches and bank conflicts; with AddressSanitizer also what lies out of
// bounds, with ThreadSanitizer races inside a block. It does not see races between blocks, nor the speed of a GPU, nor
// how its tensor cores round.
#pragma once
#include "async_copies.h"
#include "collectives.h"
#include "cuda_builtins.h"
#include "launcher.h"
#include "matrices.h"
#include "numbers.h"
#include "shared_memory.h"
