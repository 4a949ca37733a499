// Compiled once per instruction set; see difal/isa.h for what may stand here. Loops are written so that the
// compiler vectorises them: no calls that do not inline, no branches, unit stride.
#include "difal/coverage_kernels.h"
#include "difal/each_kind.h"
#include "difal/estimate.h"
#include "matrix_kernels.inl"

namespace difal {
namespace {

template <KernelKind kind>
int64_t transform_as(const ErrorModel& error, float* __restrict g, int64_t n, float s_i, const float* __restrict s) {
    const ErrorModel e = error;
    int32_t uncertain = 0;
#pragma omp simd reduction(+ : uncertain)
    for (int64_t j = 0; j < n; ++j) {
        g[j] = value_of_product<kind>(e, g[j], s_i, s[j]);
        if constexpr (kind != KernelKind::cosine && kind != KernelKind::precomputed) uncertain += g[j] == kUncertain;
    }
    return uncertain;
}

int64_t transform(KernelKind kind, const ErrorModel& error, float* g, int64_t n, float s_i, const float* s) {
#define DIFAL_CALL(K) transform_as<K>(error, g, n, s_i, s)
    DIFAL_EACH_KIND(DIFAL_CALL);
#undef DIFAL_CALL
}

// One row of features as a GEMM wants it (see prepare_rows in difal/rows.h); returns its squared norm.
template <typename T>
double center_row(const T* __restrict x, int64_t d, const T* __restrict center, float factor, float* __restrict out) {
    double squared = 0;
#pragma omp simd reduction(+ : squared)
    for (int64_t c = 0; c < d; ++c) {
        const float v = static_cast<float>(x[c] - center[c]) * factor;
        out[c] = v;
        squared += static_cast<double>(v) * static_cast<double>(v);
    }
    return squared;
}

template <typename T>
void scale_row(const T* __restrict x, int64_t d, double factor, float* __restrict out) {
#pragma omp simd
    for (int64_t c = 0; c < d; ++c) out[c] = static_cast<float>(static_cast<double>(x[c]) * factor);
}

// Sixteen numbers that the compiler keeps in registers, whatever the instruction set's own width.
typedef float Lanes __attribute__((vector_size(64)));
typedef float LooseLanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef double WideLanes __attribute__((vector_size(128)));

// Per 32 columns the sums stay in registers over all events; float32 sums are let grow over 16 events only.
void take_gains(const ErrorModel& error, const float* __restrict k, int64_t stride, int64_t width,
                const RiseEvent* __restrict events, int64_t count, double* __restrict gains, float* __restrict alive) {
    constexpr int64_t kLanes = 16, kChunk = 16;
    const float stretch = 1 + 2 * error.tolerance + error.relative, absolute = error.absolute;
    for (int64_t c = 0; c < width; c += 2 * kLanes) {
        WideLanes total0{}, total1{};
        Lanes seen0{}, seen1{};
        for (int64_t begin = 0; begin < count; begin += kChunk) {
            const int64_t end = begin + kChunk < count ? begin + kChunk : count;
            Lanes sum0{}, sum1{};
            for (int64_t e = begin; e < end; ++e) {
                const RiseEvent event = events[e];
                const float* row = k + event.row * stride + c;
                const Lanes k0 = *reinterpret_cast<const LooseLanes*>(row);
                const Lanes k1 = *reinterpret_cast<const LooseLanes*>(row + kLanes);
                const Lanes zero{};
                const Lanes low = zero + event.low, high = zero + event.high, seen = zero + event.seen;
                const Lanes above0 = k0 > low ? k0 : low, above1 = k1 > low ? k1 : low;
                sum0 += event.weight * ((above0 < high ? above0 : high) - low);
                sum1 += event.weight * ((above1 < high ? above1 : high) - low);
                const Lanes reach0 = k0 * stretch + absolute, reach1 = k1 * stretch + absolute;
                seen0 += ((reach0 > low) & (reach0 <= high)) ? seen : zero;
                seen1 += ((reach1 > low) & (reach1 <= high)) ? seen : zero;
            }
            total0 += __builtin_convertvector(sum0, WideLanes);
            total1 += __builtin_convertvector(sum1, WideLanes);
        }
        for (int64_t l = 0; l < kLanes && c + l < width; ++l) {
            gains[c + l] += total0[l];
            alive[c + l] += seen0[l];
        }
        for (int64_t l = 0; l < kLanes && c + kLanes + l < width; ++l) {
            gains[c + kLanes + l] += total1[l];
            alive[c + kLanes + l] += seen1[l];
        }
    }
}

int64_t largest(const double* values, int64_t n) {
    constexpr int64_t kChunk = 64;
    double most = values[0];
    int64_t chunk = 0;
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const int64_t end = n - begin < kChunk ? n : begin + kChunk;
        double here = values[begin];
#pragma omp simd reduction(max : here)
        for (int64_t j = begin; j < end; ++j) here = here > values[j] ? here : values[j];
        if (here > most) {
            most = here;
            chunk = begin;
        }
    }
    while (values[chunk] != most) ++chunk;
    return chunk;
}

int64_t reaching(const double* __restrict gains, const double* __restrict margins, int64_t n, double reach,
                 int64_t* __restrict found) {
    constexpr int64_t kChunk = 64;
    int64_t count = 0;
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const int64_t end = n - begin < kChunk ? n : begin + kChunk;
        int64_t any = 0;
#pragma omp simd reduction(+ : any)
        for (int64_t j = begin; j < end; ++j) any += gains[j] + margins[j] >= reach;
        for (int64_t j = begin; any && j < end; ++j) {
            if (gains[j] + margins[j] >= reach) found[count++] = j;
        }
    }
    return count;
}

// Four rows at a time share the loads of y; accumulators are float64 throughout.
template <bool squared, typename T>
void against(const T* __restrict x, int64_t d, const int32_t* __restrict rows, int64_t count, const T* __restrict y,
             double* __restrict out) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) {
        const T* x0 = x + rows[r] * d;
        const T* x1 = x + rows[r + 1] * d;
        const T* x2 = x + rows[r + 2] * d;
        const T* x3 = x + rows[r + 3] * d;
        double a0 = 0, a1 = 0, a2 = 0, a3 = 0;
#pragma omp simd reduction(+ : a0, a1, a2, a3)
        for (int64_t c = 0; c < d; ++c) {
            const double v = y[c];
            const double u0 = x0[c], u1 = x1[c], u2 = x2[c], u3 = x3[c];
            a0 += squared ? (u0 - v) * (u0 - v) : u0 * v;
            a1 += squared ? (u1 - v) * (u1 - v) : u1 * v;
            a2 += squared ? (u2 - v) * (u2 - v) : u2 * v;
            a3 += squared ? (u3 - v) * (u3 - v) : u3 * v;
        }
        out[r] = a0;
        out[r + 1] = a1;
        out[r + 2] = a2;
        out[r + 3] = a3;
    }
    for (; r < count; ++r) {
        const T* x0 = x + rows[r] * d;
        double a0 = 0;
#pragma omp simd reduction(+ : a0)
        for (int64_t c = 0; c < d; ++c) {
            const double v = y[c], u0 = x0[c];
            a0 += squared ? (u0 - v) * (u0 - v) : u0 * v;
        }
        out[r] = a0;
    }
}

}  // namespace

const CoverageKernels DIFAL_COVERAGE_TABLE = {
    {store<float>, transpose<float>, lower_gains, scan<float>, weigh<float>, live<float>},
    {store<uint16_t>, transpose<uint16_t>, lower_gains, scan<uint16_t>, weigh<uint16_t>, live<uint16_t>},
    transform,
    take_gains,
    largest,
    reaching,
    center_row<float>,
    center_row<double>,
    scale_row<float>,
    scale_row<double>,
    against<true, float>,
    against<true, double>,
    against<false, float>,
    against<false, double>,
};

}  // namespace difal
