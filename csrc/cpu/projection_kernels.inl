// Compiled once per instruction set; see difal/isa.h for what may stand here.
#include "difal/projection.h"
#include "difal/widen.h"

namespace difal {
namespace {

// Cells at a time along a row: two rows of them and their five sums stay in the first-level cache.
constexpr int64_t kCells = 128;

template <typename T>
void load_cells(const T* row, int64_t stride, int64_t count, double* out) {
    if (stride == 1) {
        for (int64_t x = 0; x < count; ++x) out[x] = widen(row[x]);
    } else {
        for (int64_t x = 0; x < count; ++x) out[x] = widen(row[x * stride]);
    }
}

// Any layout: channel by channel, each cell with its neighbours along the row.
template <typename T>
void gram_planes(const FeatureMap& map, const T* image, int64_t begin, int64_t end, bool self_only, double* sums) {
    const int64_t w = map.width, cells = (end - begin) * w;
    for (int64_t y = begin; y < end; ++y) {
        for (int64_t x0 = 0; x0 < w; x0 += kCells) {
            const int64_t n = w - x0 < kCells ? w - x0 : kCells;
            const int64_t wanted = w - x0 < kCells + 1 ? w - x0 : kCells + 1;
            const int64_t next = y + 1 < map.height ? y + 1 : y;
            double here[kCells + 1] = {}, below[kCells + 1] = {};
            double self[kCells] = {}, right[kCells] = {}, down[kCells] = {}, diagonal[kCells] = {}, anti[kCells] = {};
            for (int64_t c = 0; c < map.channels; ++c) {
                const T* plane = image + c * map.stride_c + x0 * map.stride_w;
                load_cells(plane + y * map.stride_h, map.stride_w, wanted, here);
                if (self_only) {
                    for (int64_t x = 0; x < n; ++x) self[x] += here[x] * here[x];
                    continue;
                }
                load_cells(plane + next * map.stride_h, map.stride_w, wanted, below);
                for (int64_t x = 0; x < n; ++x) {
                    self[x] += here[x] * here[x];
                    right[x] += here[x] * here[x + 1];
                    down[x] += here[x] * below[x];
                    diagonal[x] += here[x] * below[x + 1];
                    anti[x] += here[x + 1] * below[x];
                }
            }
            double* out = sums + (y - begin) * w + x0;
            const bool last = y + 1 == map.height;
            for (int64_t x = 0; x < n; ++x) {
                out[x] = self[x];
                if (self_only) continue;
                out[cells + x] = right[x];
                out[2 * cells + x] = last ? 0.0 : down[x];
                out[3 * cells + x] = last ? 0.0 : diagonal[x];
                out[4 * cells + x] = last ? 0.0 : anti[x];
            }
        }
    }
}

// Channels-last: inner products of contiguous vectors.
template <typename T>
void gram_vectors(const FeatureMap& map, const T* image, int64_t begin, int64_t end, bool self_only, double* sums) {
    const int64_t w = map.width, cells = (end - begin) * w, n = map.channels;
    for (int64_t y = begin; y < end; ++y) {
        for (int64_t x = 0; x < w; ++x) {
            const bool has_right = x + 1 < w, has_below = y + 1 < map.height;
            const T* a = image + y * map.stride_h + x * map.stride_w;
            const T* b = has_right ? a + map.stride_w : a;
            const T* c = has_below ? a + map.stride_h : a;
            const T* d = has_right ? c + map.stride_w : c;
            double self = 0, right = 0, down = 0, diagonal = 0, anti = 0;
            double* out = sums + (y - begin) * w + x;
            if (self_only) {
#pragma omp simd reduction(+ : self)
                for (int64_t i = 0; i < n; ++i) self += widen(a[i]) * widen(a[i]);
                *out = self;
                continue;
            }
#pragma omp simd reduction(+ : self, right, down, diagonal, anti)
            for (int64_t i = 0; i < n; ++i) {
                const double va = widen(a[i]), vb = widen(b[i]), vc = widen(c[i]), vd = widen(d[i]);
                self += va * va;
                right += va * vb;
                down += va * vc;
                diagonal += va * vd;
                anti += vb * vc;
            }
            out[0] = self;
            out[cells] = has_right ? right : 0.0;
            out[2 * cells] = has_below ? down : 0.0;
            out[3 * cells] = has_right && has_below ? diagonal : 0.0;
            out[4 * cells] = has_right && has_below ? anti : 0.0;
        }
    }
}

template <typename T>
void gram_type(const FeatureMap& map, int64_t image, int64_t begin, int64_t end, bool self_only, double* sums) {
    const T* data = static_cast<const T*>(map.data) + image * map.stride_b;
    const bool vectors = map.stride_c == 1 && map.channels >= 8;
    vectors ? gram_vectors(map, data, begin, end, self_only, sums)
            : gram_planes(map, data, begin, end, self_only, sums);
}

void gram_rows(const FeatureMap& map, int64_t image, int64_t begin, int64_t end, bool self_only, double* sums) {
    switch (map.type) {
        case Float::f16:
            return gram_type<HalfFloat>(map, image, begin, end, self_only, sums);
        case Float::bf16:
            return gram_type<BrainFloat>(map, image, begin, end, self_only, sums);
        case Float::f32:
            return gram_type<float>(map, image, begin, end, self_only, sums);
        case Float::f64:
            return gram_type<double>(map, image, begin, end, self_only, sums);
    }
}

template <typename T>
void add_type(const void* const* corner, const double* weight, int64_t n, void* out) {
    const T* x0 = static_cast<const T*>(corner[0]);
    const T* x1 = static_cast<const T*>(corner[1]);
    const T* x2 = static_cast<const T*>(corner[2]);
    const T* x3 = static_cast<const T*>(corner[3]);
    const T w0 = static_cast<T>(weight[0]), w1 = static_cast<T>(weight[1]), w2 = static_cast<T>(weight[2]),
            w3 = static_cast<T>(weight[3]);
    T* sum = static_cast<T*>(out);
#pragma omp simd
    for (int64_t o = 0; o < n; ++o) sum[o] += (w0 * x0[o] + w1 * x1[o]) + (w2 * x2[o] + w3 * x3[o]);
}

void add_corners(bool wide, const void* const* corner, const double* weight, int64_t n, void* out) {
    wide ? add_type<double>(corner, weight, n, out) : add_type<float>(corner, weight, n, out);
}

template <typename T>
void scale_type(double scale, const void* bias, int64_t n, void* out) {
    T* y = static_cast<T*>(out);
    const T* b = static_cast<const T*>(bias);
    if (b == nullptr) {
        for (int64_t o = 0; o < n; ++o) y[o] = static_cast<T>(y[o] * scale);
    } else {
#pragma omp simd
        for (int64_t o = 0; o < n; ++o) y[o] = static_cast<T>(y[o] * scale + b[o]);
    }
}

void scale_add(bool wide, double scale, const void* bias, int64_t n, void* out) {
    wide ? scale_type<double>(scale, bias, n, out) : scale_type<float>(scale, bias, n, out);
}

}  // namespace

const ProjectionKernels DIFAL_PROJECTION_TABLE = {gram_rows, add_corners, scale_add};

}  // namespace difal
