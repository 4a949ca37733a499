// estimate.h with the kernel chosen at run time. A launch has one kernel, so the switch does not diverge.
#pragma once

#include "difal/each_kind.h"
#include "difal/estimate.h"
#include "platform.h"

namespace difal {
namespace cuda {

__device__ inline float bound_of(KernelKind kind, const ErrorModel& error, float k, float sum) {
#define DIFAL_CALL(K) entry_bound<K>(error, k, sum)
    DIFAL_EACH_KIND(DIFAL_CALL);
#undef DIFAL_CALL
}

// Could an entry with this estimate reach above m? Never says no wrongly, and costs no division.
__device__ inline bool may_reach(const ErrorModel& error, float k, float m) {
    return k + k * (2 * error.tolerance + error.relative) + error.absolute > m;
}

}  // namespace cuda
}  // namespace difal
