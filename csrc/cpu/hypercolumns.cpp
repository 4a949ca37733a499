#include "difal/hypercolumns.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "difal/isa.h"
#include "difal/threads.h"

namespace difal {
namespace {

const HypercolumnKernels& kernels() {
    return *by_isa(&kHypercolumnsGeneric, &kHypercolumnsAvx2, &kHypercolumnsAvx512);
}

// By image, row, column, so that neighbours in the order share cache lines; the output keeps the caller's
// order.
std::vector<int64_t> reading_order(const HypercolumnJob& job) {
    std::vector<uint64_t> key(job.point_count);  // may wrap around, which then costs time alone
    std::vector<int64_t> order(job.point_count);
    for (int64_t p = 0; p < job.point_count; ++p) {
        key[p] =
            (static_cast<uint64_t>(job.image[p]) * job.height + job.points[2 * p]) * job.width + job.points[2 * p + 1];
        order[p] = p;
    }
    if (!std::is_sorted(key.begin(), key.end())) {
        std::sort(order.begin(), order.end(),
                  [&](int64_t a, int64_t b) { return key[a] != key[b] ? key[a] < key[b] : a < b; });
    }
    return order;
}

void find_corners(const HypercolumnJob& job, const FeatureMap& map, const int64_t* order, int64_t count,
                  Corners& corners) {
    corners.count = count;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t p = order[i];
        const Tap y = bilinear_tap(job.points[2 * p], map.height, job.height);
        const Tap x = bilinear_tap(job.points[2 * p + 1], map.width, job.width);
        const int64_t start = job.image[p] * map.stride_b;
        for (int k = 0; k < 4; ++k) {
            corners.at[k][i] =
                start + (k & 2 ? y.high : y.low) * map.stride_h + (k & 1 ? x.high : x.low) * map.stride_w;
            corners.weight[k][i] = (k & 2 ? y.weight : 1 - y.weight) * (k & 1 ? x.weight : 1 - x.weight);
        }
    }
}

}  // namespace

void hypercolumns(const HypercolumnJob& job, int threads) {
    const HypercolumnKernels& kernel = kernels();
    const std::vector<int64_t> order = reading_order(job);
    bool wide = job.out_type == Float::f64;  // float64 values may lie outside of float32's range
    for (int64_t m = 0; m < job.map_count; ++m) wide = wide || job.maps[m].type == Float::f64;
    const int64_t row_size = wide ? 8 : 4;
    const int64_t out_size = job.out_type == Float::f64 ? 8 : job.out_type == Float::f32 ? 4 : 2;
    const int64_t blocks = (job.point_count + kPointBlock - 1) / kPointBlock;
    ThreadPool pool(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, blocks))));
    pool.parallel_for(blocks, [&](int64_t block) {
        const int64_t first = block * kPointBlock;
        const int64_t count = std::min(kPointBlock, job.point_count - first);
        const int64_t row_bytes = job.channels * row_size;
        std::unique_ptr<char[]> rows(new char[count * row_bytes]);
        Corners corners;
        double norms[kPointBlock] = {};
        int64_t start = 0;
        for (int64_t m = 0; m < job.map_count; ++m) {
            const FeatureMap& map = job.maps[m];
            find_corners(job, map, &order[first], count, corners);
            kernel.gather(map, corners, wide, rows.get() + start * row_size, job.channels, norms);
            start += map.channels;
        }
        for (int64_t i = 0; i < count; ++i) {
            const int64_t p = order[first + i];
            const double scale = job.normalize && norms[i] > 0 ? 1 / std::sqrt(norms[i]) : 1.0;
            kernel.store(job.out_type, wide, rows.get() + i * row_bytes, scale, job.channels,
                         static_cast<char*>(job.out) + p * job.channels * out_size);
            job.squared_norms[p] = norms[i];
        }
    });
}

}  // namespace difal
