#include "difal/isa.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "int16_tiles.h"

namespace difal {
namespace {

#if defined(__x86_64__)
// Asked of the processor: Clang 14, for one, does not know this name for __builtin_cpu_supports.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}
#endif

bool is_limit(const char* name) {
    const char* limit = std::getenv("DIFAL_ISA");
    return limit != nullptr && std::strcmp(limit, name) == 0;
}

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
    if (is_limit("generic") || is_limit("tiles")) return Isa::generic;
    if (is_limit("avx2") && best == Isa::avx512) return Isa::avx2;
    return best;
}

bool detect_amx() {
#if defined(__x86_64__) && defined(__linux__)
    if (!kHasInt16TilesAmx || !has_vnni() || is_limit("vnni")) return false;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & (1u << 24)) || !(d & (1u << 25))) return false;
    // Linux gives a process the tile registers when it asks for them, and not where a signal could not save them.
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
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
    return isa() == Isa::avx512 && __builtin_cpu_supports("avx512vnni") && !is_limit("avx512");
#else
    return false;
#endif
}

bool has_amx() {
    static const bool has = detect_amx();
    return has;
}

bool models_tiles() {
    static const bool wanted = is_limit("tiles");
    return wanted;
}

}  // namespace difal
