#include "difal/isa.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace difal {
namespace {

#if defined(__x86_64__)
// Asked of the processor: Clang 14, for one, does not know this name for __builtin_cpu_supports.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}
#endif

Isa detect() {
    Isa best = Isa::generic;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
        best = Isa::avx2;
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
            best = Isa::avx512;
        }
    }
#endif
    const char* limit = std::getenv("DIFAL_ISA");
    if (limit != nullptr && std::strcmp(limit, "generic") == 0) return Isa::generic;
    if (limit != nullptr && std::strcmp(limit, "avx2") == 0 && best == Isa::avx512) return Isa::avx2;
    return best;
}

}  // namespace

Isa isa() {
    static const Isa chosen = detect();
    return chosen;
}

const char* isa_name() {
    switch (isa()) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        default:
            return "generic";
    }
}

bool has_vnni() {
#if defined(__x86_64__)
    return isa() == Isa::avx512 && __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

}  // namespace difal
