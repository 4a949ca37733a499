// Hypercolumns: a block per point. Threads take channels, so that a row is written whole, and hold the row in shared
// memory until its norm is known.
#include "difal/cuda_maps.h"
#include "exact.h"
#include "platform.h"

namespace difal {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr size_t kMaxShared = 96 * 1024;  // every GPU from sm_80 on gives a block this much

struct Maps {
    FeatureMap at[kMaxMaps];
};

// What one point reads of one map: element offsets of the corners from channel 0, and their weights.
struct Corners {
    int64_t offset[4];
    double weight[4];
};

__device__ Corners corners_of(const FeatureMap& map, int64_t image, int64_t row, int64_t column, int64_t height,
                              int64_t width) {
    const Tap y = bilinear_tap(row, map.height, height), x = bilinear_tap(column, map.width, width);
    Corners corners;
    for (int k = 0; k < 4; ++k) {
        corners.offset[k] =
            image * map.stride_b + (k & 2 ? y.high : y.low) * map.stride_h + (k & 1 ? x.high : x.low) * map.stride_w;
        corners.weight[k] = (k & 2 ? y.weight : 1 - y.weight) * (k & 1 ? x.weight : 1 - x.weight);
    }
    return corners;
}

// visit(channel of the row, value) for this thread's channels of one map. Addresses are stepped, not made anew: a
// product of 64-bit integers is several instructions, and there are four corners.
template <typename T, typename Visit>
__device__ void each_of_type(const FeatureMap& map, const Corners& corners, int start, Visit&& visit) {
    const T* data = static_cast<const T*>(map.data) + static_cast<int64_t>(threadIdx.x) * map.stride_c;
    const T* corner[4] = {data + corners.offset[0], data + corners.offset[1], data + corners.offset[2],
                          data + corners.offset[3]};
    const double weight[4] = {corners.weight[0], corners.weight[1], corners.weight[2], corners.weight[3]};
    const int64_t step = static_cast<int64_t>(blockDim.x) * map.stride_c;
    const int channels = static_cast<int>(map.channels);
#pragma unroll 4
    for (int c = static_cast<int>(threadIdx.x); c < channels; c += static_cast<int>(blockDim.x)) {
        const double value = weight[0] * wide(*corner[0]) + weight[1] * wide(*corner[1]) +
                             weight[2] * wide(*corner[2]) + weight[3] * wide(*corner[3]);
        for (int k = 0; k < 4; ++k) corner[k] += step;
        visit(start + c, value);
    }
}

template <typename Visit>
__device__ void each_value(const Maps& maps, int count, const Corners* corners, Visit&& visit) {
    int start = 0;
    for (int m = 0; m < count; ++m) {
        const FeatureMap& map = maps.at[m];
        switch (map.type) {
            case Float::f16:
                each_of_type<HalfFloat>(map, corners[m], start, visit);
                break;
            case Float::bf16:
                each_of_type<BrainFloat>(map, corners[m], start, visit);
                break;
            case Float::f32:
                each_of_type<float>(map, corners[m], start, visit);
                break;
            default:
                each_of_type<double>(map, corners[m], start, visit);
        }
        start += static_cast<int>(map.channels);
    }
}

__device__ inline void store(Float type, void* out, int64_t at, double value) {
    switch (type) {
        case Float::f64:
            static_cast<double*>(out)[at] = value;
            break;
        case Float::f32:
            static_cast<float*>(out)[at] = static_cast<float>(value);
            break;
        case Float::bf16:
            static_cast<uint16_t*>(out)[at] = bf16_of_float(static_cast<float>(value));
            break;
        default:
            static_cast<uint16_t*>(out)[at] = f16_of_float(static_cast<float>(value));
    }
}

// Row is float, or double where a map or the answer is. `staged`: the row fits in shared memory; else the maps are read
// twice.
template <typename Row>
__global__ void __launch_bounds__(kThreads)
    hypercolumn_kernel(HypercolumnJob job, Maps maps, int map_count, bool staged) {
    double* space = reinterpret_cast<double*>(shared_memory());
    Corners* corners = reinterpret_cast<Corners*>(space + kWarp);
    Row* row = reinterpret_cast<Row*>(corners + map_count);
    const int64_t p = blockIdx.x;
    for (int m = threadIdx.x; m < map_count; m += blockDim.x) {
        corners[m] =
            corners_of(maps.at[m], job.image[p], job.points[2 * p], job.points[2 * p + 1], job.height, job.width);
    }
    __syncthreads();
    double sum = 0;
    each_value(maps, map_count, corners, [&](int c, double value) {
        sum += value * value;
        if (staged) row[c] = static_cast<Row>(value);
    });
    sum = block_sum(sum, space);
    const double scale = job.normalize && sum > 0 ? 1 / sqrt(sum) : 1.0;
    if (threadIdx.x == 0) job.squared_norms[p] = sum;
    const int64_t begin = p * job.channels;
    if (staged) {
        for (int64_t c = threadIdx.x; c < job.channels; c += blockDim.x)
            store(job.out_type, job.out, begin + c, static_cast<double>(row[c]) * scale);
    } else {
        each_value(maps, map_count, corners, [&](int c, double value) {
            store(job.out_type, job.out, begin + c, static_cast<double>(static_cast<Row>(value)) * scale);
        });
    }
}

template <typename Row>
void launch_as(Queue queue, const HypercolumnJob& job, const Maps& maps) {
    const size_t fixed = sizeof(double) * kWarp + sizeof(Corners) * static_cast<size_t>(job.map_count);
    const size_t all = fixed + sizeof(Row) * static_cast<size_t>(job.channels);
    const bool staged = all <= kMaxShared;
    launch(hypercolumn_kernel<Row>, queue, dim3(static_cast<unsigned>(job.point_count)), kThreads, staged ? all : fixed,
           false, job, maps, static_cast<int>(job.map_count), staged);
}

}  // namespace

void hypercolumns(Queue queue, const HypercolumnJob& job) {
    if (job.point_count == 0) return;
    Maps maps = {};
    bool wide_row = job.out_type == Float::f64;
    for (int64_t m = 0; m < job.map_count; ++m) {
        maps.at[m] = job.maps[m];
        wide_row = wide_row || job.maps[m].type == Float::f64;
    }
    if (wide_row) {
        launch_as<double>(queue, job, maps);
    } else {
        launch_as<float>(queue, job, maps);
    }
}

}  // namespace cuda
}  // namespace difal
