// Hypercolumns: at each point the feature maps' bilinear values (align_corners=False), concatenated.
#pragma once

#include <cstdint>

#include "difal/each_side.h"

namespace difal {

enum class Float : int32_t { f16, bf16, f32, f64 };

// One (B, C, H, W) feature map anywhere in memory. Strides in elements; zero is allowed.
struct FeatureMap {
    const void* data;
    Float type;
    int64_t channels, height, width;
    int64_t stride_b, stride_c, stride_h, stride_w;
};

struct HypercolumnJob {
    const FeatureMap* maps;
    int64_t map_count;
    int64_t channels;  // D, over all maps
    int64_t height, width;
    const int64_t* points;  // (P, 2): row, col; inside the image, which the caller has checked
    const int64_t* image;   // (P,)
    int64_t point_count;
    bool normalize;
    Float out_type;
    void* out;              // (P, D), contiguous
    double* squared_norms;  // (P,): of the rows before normalisation; not finite where a value read was not
};

void hypercolumns(const HypercolumnJob& job, int threads);

// The two source cells of one output coordinate, and the weight of the second. At the border both are the
// last cell and the weight is 0, so that nothing outside of what is needed is read.
struct Tap {
    int64_t low, high;
    double weight;
};

DIFAL_EACH_SIDE static inline Tap bilinear_tap(int64_t position, int64_t size_in, int64_t size_out) {
    double source =
        (static_cast<double>(position) + 0.5) * static_cast<double>(size_in) / static_cast<double>(size_out) - 0.5;
    if (source < 0) source = 0;
    const int64_t low = static_cast<int64_t>(source);
    if (low >= size_in - 1) return {size_in - 1, size_in - 1, 0.0};
    const double weight = source - static_cast<double>(low);
    return {low, weight > 0 ? low + 1 : low, weight};
}

constexpr int64_t kPointBlock = 128;

// What one block of up to kPointBlock points reads of one map: element offsets of the four corners from
// channel 0 (a corner of weight 0 repeats the first), and their weights.
struct Corners {
    int64_t count;
    int64_t at[4][kPointBlock];
    double weight[4][kPointBlock];
};

struct HypercolumnKernels {
    // rows[p * ld + c] = sum_k weight[k][p] map[at[k][p] + c stride_c] for all channels c of the map, and its
    // square added to squared_norms[p]; rows are float, or double where `wide`.
    void (*gather)(const FeatureMap& map, const Corners& corners, bool wide, void* rows, int64_t ld,
                   double* squared_norms);

    // out = rows * scale, n numbers rounded to `type`.
    void (*store)(Float type, bool wide, const void* rows, double scale, int64_t n, void* out);
};

extern const HypercolumnKernels kHypercolumnsGeneric;
extern const HypercolumnKernels kHypercolumnsAvx2;  // generic code where the target is not x86, like the next
extern const HypercolumnKernels kHypercolumnsAvx512;

}  // namespace difal
