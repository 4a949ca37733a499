// Kernel values in float64, straight from the features, by one warp: the judge of every near-tie.
//
// Each lane adds up every 32nd run of 16 bytes, or every 32nd number where rows do not all begin on 16 bytes; then the
// lanes are added as a tree. The order is that of the whole pool, never of some rows, so a value is the same wherever
// and whenever it is computed.
#pragma once

#include "difal/cuda_coverage.h"
#include "difal/kernel_value.h"
#include "difal/widen.h"
#include "platform.h"

namespace difal {
namespace cuda {

__device__ inline double wide(HalfFloat v) {
#if defined(__CUDACC__)
    __half_raw raw;
    raw.x = v.bits;
    return static_cast<double>(__half2float(__half(raw)));
#else
    return widen(v);
#endif
}
__device__ inline double wide(BrainFloat v) {
#if defined(__CUDACC__)
    return static_cast<double>(__uint_as_float(static_cast<unsigned>(v.bits) << 16));
#else
    return widen(v);
#endif
}
__device__ inline double wide(float v) {
    return static_cast<double>(v);
}
__device__ inline double wide(double v) {
    return v;
}

template <typename T>
struct alignas(16) Run {
    static constexpr int kSize = 16 / sizeof(T);
    T at[kSize];
};

// Whether every row of the pool, and y, can be read in runs.
template <typename T>
__device__ inline bool in_runs(const Points& p, const void* y) {
    const uintptr_t step = static_cast<uintptr_t>(p.stride) * sizeof(T);
    return (reinterpret_cast<uintptr_t>(p.data) | step | reinterpret_cast<uintptr_t>(y)) % sizeof(Run<T>) == 0;
}

// sum[r] = |x_r - y|^2, or <x_r, y>, for R rows of d numbers.
template <typename T, int R>
__device__ void warp_products(const T* const (&x)[R], const T* y, int64_t d, bool runs, bool squared,
                              double (&sum)[R]) {
    for (int r = 0; r < R; ++r) sum[r] = 0;
    int64_t done = 0;
    if (runs) {
        constexpr int kSize = Run<T>::kSize;
        for (int64_t c = lane(); c < d / kSize; c += kWarp) {
            const Run<T> other = reinterpret_cast<const Run<T>*>(y)[c];
            Run<T> own[R];
#pragma unroll
            for (int r = 0; r < R; ++r) own[r] = reinterpret_cast<const Run<T>*>(x[r])[c];
#pragma unroll
            for (int e = 0; e < kSize; ++e) {
                const double v = wide(other.at[e]);
#pragma unroll
                for (int r = 0; r < R; ++r) {
                    const double u = wide(own[r].at[e]);
                    const double difference = u - v;
                    sum[r] += squared ? difference * difference : u * v;
                }
            }
        }
        done = d / kSize * kSize;
    }
    for (int64_t c = done + lane(); c < d; c += kWarp) {
        const double v = wide(y[c]);
#pragma unroll
        for (int r = 0; r < R; ++r) {
            const double u = wide(x[r][c]);
            const double difference = u - v;
            sum[r] += squared ? difference * difference : u * v;
        }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) sum[r] = warp_sum(sum[r]);
}

template <typename T, int R>
__device__ void exact_of_type(const Points& p, const int64_t (&rows)[R], const void* y, double y_norm,
                              double (&out)[R]) {
    const T* x[R];
    for (int r = 0; r < R; ++r) x[r] = static_cast<const T*>(p.data) + rows[r] * p.stride;
    const bool cosine = p.kind == KernelKind::cosine;
    warp_products<T, R>(x, static_cast<const T*>(y), p.dimension, in_runs<T>(p, y), !cosine, out);
    for (int r = 0; r < R; ++r) {
        if (cosine) {
            const double norms = p.norms[rows[r]] * y_norm;
            const double k = norms > 0 ? out[r] / norms : 0.0;
            out[r] = k > 0 ? k : 0.0;
        } else {
            out[r] = kernel_of_squared_distance(p.kind, out[r], p.bandwidth);
        }
    }
}

// out[r] = k(x[rows[r]], y), the same in all lanes.
template <int R>
__device__ void exact_values(const Points& p, const int64_t (&rows)[R], const void* y, double y_norm,
                             double (&out)[R]) {
    switch (p.type) {
        case Float::f16:
            return exact_of_type<HalfFloat, R>(p, rows, y, y_norm, out);
        case Float::bf16:
            return exact_of_type<BrainFloat, R>(p, rows, y, y_norm, out);
        case Float::f32:
            return exact_of_type<float, R>(p, rows, y, y_norm, out);
        default:
            return exact_of_type<double, R>(p, rows, y, y_norm, out);
    }
}

__device__ inline int64_t bytes_of(Float type) {
    return type == Float::f64 ? 8 : type == Float::f32 ? 4 : 2;
}

__device__ inline const void* row_of(const Points& p, const void* base, int64_t row, int64_t stride) {
    return static_cast<const char*>(base) + row * stride * bytes_of(p.type);
}

// out[r] = k(x[rows[r]], x[point]).
template <int R>
__device__ void exact_against_point(const Points& p, const int64_t (&rows)[R], int64_t point, double (&out)[R]) {
    if (p.kind == KernelKind::precomputed) {
        for (int r = 0; r < R; ++r) {
            const int64_t at = rows[r] * p.stride + point;
            out[r] = p.type == Float::f64 ? static_cast<const double*>(p.data)[at]
                                          : wide(static_cast<const float*>(p.data)[at]);
        }
        return;
    }
    const double norm = p.kind == KernelKind::cosine ? p.norms[point] : 0.0;
    exact_values<R>(p, rows, row_of(p, p.data, point, p.stride), norm, out);
}

// visit(row, k(x[row], x[point])) for the rows of the lanes that say so, in their order, by the whole warp.
template <typename Visit>
__device__ void exact_of_lanes(const Points& p, bool wanted, int64_t row, int64_t point, Visit&& visit) {
    unsigned mask = __ballot_sync(kAllLanes, wanted);
    while (mask != 0) {
        constexpr int kTogether = 4;
        int64_t rows[kTogether];
        double values[kTogether];
        int count = 0;
#pragma unroll
        for (int r = 0; r < kTogether; ++r) {
            const int from = mask != 0 ? __ffs(mask) - 1 : 0;
            const int64_t next = __shfl_sync(kAllLanes, row, from);
            rows[r] = mask != 0 ? next : rows[0];
            count += mask != 0;
            mask &= mask - 1u;
        }
        exact_against_point<kTogether>(p, rows, point, values);
#pragma unroll
        for (int r = 0; r < kTogether; ++r) {
            if (r < count) visit(rows[r], values[r]);
        }
    }
}

}  // namespace cuda
}  // namespace difal
