// The coverage that labeled points give, and norms.
#include "bounds.h"
#include "difal/cuda_coverage.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

// A warp per row: first a floor from all estimates, then float64 for every one that could be above it.
__global__ void __launch_bounds__(256) cover_kernel(Points points, Estimate estimate, Cover cover) {
    const int64_t i = cover.row_begin + static_cast<int64_t>(blockIdx.x) * warps_in_block() + warp_in_block();
    if (i >= cover.row_end) return;
    const float* line = cover.values + (i - cover.row_begin) * cover.stride;
    const float s_i = estimate.sq_norms[i];
    const ErrorModel& error = estimate.error;
    double floor = cover.exact[i];
    for (int64_t l = lane(); l < cover.count; l += kWarp) {
        const float k = line[l];
        if (k == kUncertain) continue;
        const double least =
            static_cast<double>(k) - static_cast<double>(bound_of(points.kind, error, k, s_i + cover.sq_norms[l]));
        floor = least > floor ? least : floor;
    }
    floor = warp_max(floor);
    double best = cover.exact[i];
    for (int64_t first = 0; first < cover.count; first += kWarp) {
        const int64_t l = first + lane();
        bool open = false;
        if (l < cover.count) {
            const float k = line[l];
            const float bound = bound_of(points.kind, error, k, s_i + cover.sq_norms[l]);
            open = k == kUncertain || static_cast<double>(k) + static_cast<double>(bound) >= floor;
        }
        unsigned mask = __ballot_sync(kAllLanes, open);
        for (; mask != 0; mask &= mask - 1u) {
            const int64_t other = first + __ffs(mask) - 1;
            const int64_t rows[1] = {i};
            double value[1];
            const double norm = points.kind == KernelKind::cosine ? cover.norms[other] : 0.0;
            exact_values<1>(points, rows, row_of(points, cover.others, other, points.stride), norm, value);
            best = value[0] > best ? value[0] : best;
        }
    }
    if (lane() == 0) {
        cover.exact[i] = best;
        cover.rounded[i] = static_cast<float>(best);
    }
}

template <typename T>
__device__ double norm_of(const Points& p, int64_t row) {
    const T* x[1] = {static_cast<const T*>(p.data) + row * p.stride};
    double sum[1];
    warp_products<T, 1>(x, x[0], p.dimension, in_runs<T>(p, p.data), false, sum);
    return sqrt(sum[0]);
}

__global__ void __launch_bounds__(256) norms_kernel(Points points, int64_t rows, double* norms) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * warps_in_block() + warp_in_block();
    if (i >= rows) return;
    double norm = 0;
    switch (points.type) {
        case Float::f16:
            norm = norm_of<HalfFloat>(points, i);
            break;
        case Float::bf16:
            norm = norm_of<BrainFloat>(points, i);
            break;
        case Float::f32:
            norm = norm_of<float>(points, i);
            break;
        default:
            norm = norm_of<double>(points, i);
    }
    if (lane() == 0) norms[i] = norm;
}

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = kThreads / kWarp;

unsigned blocks_for(int64_t count, int64_t each) {
    return static_cast<unsigned>((count + each - 1) / each);
}

}  // namespace

void coverage_cover(Queue queue, const Points& points, const Estimate& estimate, const Cover& cover) {
    if (cover.row_end <= cover.row_begin) return;
    launch(cover_kernel, queue, dim3(blocks_for(cover.row_end - cover.row_begin, kRowsPerBlock)), kThreads, 0, false,
           points, estimate, cover);
}

void coverage_norms(Queue queue, const Points& points, int64_t rows, double* norms) {
    launch(norms_kernel, queue, dim3(blocks_for(rows, kRowsPerBlock)), kThreads, 0, false, points, rows, norms);
}

}  // namespace cuda
}  // namespace difal
