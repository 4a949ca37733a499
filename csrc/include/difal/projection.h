// A linear layer on L2-normalised hypercolumns, for whole images: the maps are projected at their own
// resolution (by the library's GEMM), and what is here resizes the few projected channels and divides by the
// norm.
//
// The squared norm of the resized vector sum_k w_k v_k, k the four corners, is sum_kl w_k w_l <v_k, v_l>: all
// it needs are a map's inner products of neighbouring cells, its *Gram maps*.
#pragma once

#include <cstdint>

#include "difal/hypercolumns.h"

namespace difal {

// The five Gram maps, each (H, W): <v(y,x), v(y,x)>, with its right neighbour, with the one below, with the
// one below and right, and of the right with the one below. Zero where a neighbour is missing.
constexpr int64_t kGramMaps = 5;

// Accumulated in float64 for one image of the map, into `gram` (5, H, W), or (1, H, W) if `self_only`.
void gram_maps(const FeatureMap& map, int64_t image, bool self_only, double* gram, int threads);

struct ProjectedMap {
    const void* values;  // (H, W, O), contiguous, of the job's type
    const double* gram;  // (5, H, W); unused without normalisation
    int64_t height, width;
};

struct ResizeJob {
    const ProjectedMap* maps;
    int64_t map_count;
    int64_t height, width, row_begin, row_end;  // of the image
    int64_t channels;                           // O
    bool wide;                                  // values are float64, else float32
    bool normalize;
    const void* bias;  // (O,) or null
    void* out;         // (rows, W, O): holds what is to be added to on entry
    double* norms;     // (rows, W): squared norm of what is not in `maps` on entry. On return the squared norm
                       // of the hypercolumn, or -1 where it cancels too far (below) and `out` is not to be used
};

// Below this fraction of the corners' mean squared norm the resized vector is what rounding has left of
// vectors that cancel; the caller computes such a pixel from the maps themselves.
constexpr double kCancelled = 1e-3;

void resize_projected(const ResizeJob& job, int threads);

struct ProjectionKernels {
    // gram maps of rows [begin, end); `sums` holds kGramMaps * (end - begin) * W numbers.
    void (*gram_rows)(const FeatureMap& map, int64_t image, int64_t begin, int64_t end, bool self_only, double* sums);

    // out[o] += sum_k weight[k] corner[k][o]
    void (*add_corners)(bool wide, const void* const* corner, const double* weight, int64_t n, void* out);

    // out[o] = out[o] * scale + bias[o]; no bias where null.
    void (*scale_add)(bool wide, double scale, const void* bias, int64_t n, void* out);
};

extern const ProjectionKernels kProjectionGeneric;
extern const ProjectionKernels kProjectionAvx2;
extern const ProjectionKernels kProjectionAvx512;

}  // namespace difal
