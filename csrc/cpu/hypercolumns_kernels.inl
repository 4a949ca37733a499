// Compiled once per instruction set; see difal/isa.h for what may stand here.
#include "difal/hypercolumns.h"
#include "difal/widen.h"

namespace difal {
namespace {

// Any layout: one channel at a time over all points of the block. Sorted points read a plane's rows in order,
// so a cache line serves every point on it; 16 channels are held back so that rows are written by whole
// lines.
template <typename T, typename Row>
void gather_planes(const FeatureMap& map, const Corners& at, Row* rows, int64_t ld, double* squared_norms) {
    constexpr int64_t kChannels = 64 / sizeof(Row);
    Row tile[kChannels][kPointBlock];
    T read[4][kPointBlock];
    const T* data = static_cast<const T*>(map.data);
    const int64_t n = at.count;
    for (int64_t c0 = 0; c0 < map.channels; c0 += kChannels) {
        const int64_t some = map.channels - c0 < kChannels ? map.channels - c0 : kChannels;
        for (int64_t c = 0; c < some; ++c) {
            const T* plane = data + (c0 + c) * map.stride_c;
            Row* line = tile[c];
            const T* next = plane + (c0 + c + 1 < map.channels ? map.stride_c : 0);
            for (int64_t p = 0; p < n; ++p) {  // both rows of the next channel, a plane away
                __builtin_prefetch(next + at.at[0][p]);
                __builtin_prefetch(next + at.at[2][p]);
            }
            for (int64_t k = 0; k < 4; ++k) {  // scalar reads first, so that the arithmetic vectorises
                for (int64_t p = 0; p < n; ++p) read[k][p] = plane[at.at[k][p]];
            }
            for (int64_t p = 0; p < n; ++p) {
                const double value = at.weight[0][p] * widen(read[0][p]) + at.weight[1][p] * widen(read[1][p]) +
                                     at.weight[2][p] * widen(read[2][p]) + at.weight[3][p] * widen(read[3][p]);
                line[p] = static_cast<Row>(value);
                squared_norms[p] += value * value;
            }
        }
        for (int64_t p = 0; p < n; ++p) {
            Row* row = rows + p * ld + c0;
            for (int64_t c = 0; c < some; ++c) row[c] = tile[c][p];
        }
    }
}

// Channels-last: the four corners are contiguous vectors.
template <typename T, typename Row>
void gather_vectors(const FeatureMap& map, const Corners& at, Row* rows, int64_t ld, double* squared_norms) {
    const T* data = static_cast<const T*>(map.data);
    for (int64_t p = 0; p < at.count; ++p) {
        const T* x0 = data + at.at[0][p];
        const T* x1 = data + at.at[1][p];
        const T* x2 = data + at.at[2][p];
        const T* x3 = data + at.at[3][p];
        const double w0 = at.weight[0][p], w1 = at.weight[1][p], w2 = at.weight[2][p], w3 = at.weight[3][p];
        Row* row = rows + p * ld;
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < map.channels; ++c) {
            const double value = w0 * widen(x0[c]) + w1 * widen(x1[c]) + w2 * widen(x2[c]) + w3 * widen(x3[c]);
            row[c] = static_cast<Row>(value);
            sum += value * value;
        }
        squared_norms[p] += sum;
    }
}

template <typename T>
void gather_type(const FeatureMap& map, const Corners& at, bool wide, void* rows, int64_t ld, double* norms) {
    const bool vectors = map.stride_c == 1 && map.channels >= 8;
    if (wide) {
        double* out = static_cast<double*>(rows);
        vectors ? gather_vectors<T>(map, at, out, ld, norms) : gather_planes<T>(map, at, out, ld, norms);
    } else {
        float* out = static_cast<float*>(rows);
        vectors ? gather_vectors<T>(map, at, out, ld, norms) : gather_planes<T>(map, at, out, ld, norms);
    }
}

void gather(const FeatureMap& map, const Corners& at, bool wide, void* rows, int64_t ld, double* norms) {
    switch (map.type) {
        case Float::f16:
            return gather_type<HalfFloat>(map, at, wide, rows, ld, norms);
        case Float::bf16:
            return gather_type<BrainFloat>(map, at, wide, rows, ld, norms);
        case Float::f32:
            return gather_type<float>(map, at, wide, rows, ld, norms);
        case Float::f64:
            return gather_type<double>(map, at, wide, rows, ld, norms);
    }
}

template <typename Row>
void store_type(Float type, const Row* rows, double scale, int64_t n, void* out) {
    switch (type) {
        case Float::f16: {
            uint16_t* to = static_cast<uint16_t*>(out);
            for (int64_t i = 0; i < n; ++i) to[i] = f16_of_float(static_cast<float>(rows[i] * scale));
            return;
        }
        case Float::bf16: {
            uint16_t* to = static_cast<uint16_t*>(out);
            for (int64_t i = 0; i < n; ++i) to[i] = bf16_of_float(static_cast<float>(rows[i] * scale));
            return;
        }
        case Float::f32: {
            float* to = static_cast<float*>(out);
            for (int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(rows[i] * scale);
            return;
        }
        case Float::f64: {
            double* to = static_cast<double*>(out);
            for (int64_t i = 0; i < n; ++i) to[i] = rows[i] * scale;
            return;
        }
    }
}

void store(Float type, bool wide, const void* rows, double scale, int64_t n, void* out) {
    wide ? store_type(type, static_cast<const double*>(rows), scale, n, out)
         : store_type(type, static_cast<const float*>(rows), scale, n, out);
}

}  // namespace

const HypercolumnKernels DIFAL_HYPERCOLUMNS_TABLE = {gather, store};

}  // namespace difal
