// The inner loops of coverage selection, one table per instruction set (see isa.h).
#pragma once

#include <cstdint>

namespace difal {

enum class KernelKind : int32_t { rbf, laplace, cauchy, student_t, rational_quadratic, tophat, cosine, precomputed };

// How far a stored float32 kernel value k^ can be from the float64 value k, derived in docs/exactness.md:
//     |k^ - k| <= absolute + k^ (relative + min(tolerance, sq_dist_rel_err (s_i + s_j) shape(k^)))
// where s_i is the squared norm of the centred feature in units of the bandwidth, and shape is the kernel's
// logarithmic slope. Entries whose own bound exceeds `tolerance` are not estimated but computed in float64. Where k^
// was rounded once more, to a step of 1 / kSteps, k^ + quantization_err takes its place above and quantization_err is
// added.
struct ErrorModel {
    float sq_dist_rel_err = 0;   // error of a squared distance, per unit of s_i + s_j
    float tolerance = 0;         // worst relative error that is left to an estimate
    float relative = 0;          // rounding of k^ and of the coverage m to float32
    float absolute = 0;          // cosine only
    float quantization_err = 0;  // rounding of k^ and of the coverage m to 16 bits, together; 0 where they are float32
};

// An entry u of a 16-bit matrix is the kernel value u / kSteps.
constexpr float kSteps = 65535.0f;

static inline uint16_t stored_entry(float k) {
    const float inside = k > 0 ? (k < 1 ? k : 1.0f) : 0.0f;
    return static_cast<uint16_t>(static_cast<int32_t>(inside * kSteps + 0.5f));
}

static inline float entry_value(uint16_t stored) {
    return static_cast<float>(stored) * (1 / kSteps);
}
static inline float entry_value(float stored) {
    return stored;
}

// What `transform` writes where the estimate is too uncertain: to be replaced by the float64 value.
constexpr float kUncertain = 2.0f;

// The coverage of a row rises from low to high.
struct RowRise {
    int64_t row;
    float low, high;
    double weight;
};

// The same for a row of a tile, for float32 sums.
struct RiseEvent {
    int32_t row;
    float low, high;
    float weight;  // of what is taken; negative to give it back
    float seen;    // at least |weight|
};

// What depends on the type T of the matrix's entries: float, or uint16_t (see kSteps).
template <typename T>
struct MatrixKernels {
    // n kernel values to entries.
    void (*store)(const float* k, int64_t n, T* out);

    // dst[c * ld_dst + r] = src[r * ld_src + c]
    void (*transpose)(const T* src, int64_t ld_src, int64_t rows, int64_t cols, T* dst, int64_t ld_dst);

    // For each of `count` rises and j in [0, width), with k = k[rise.row * stride + j]:
    // gains[j] -= rise.weight (clip(k, low, high) - low), in float64 or, where weights are equal, in integers. What
    // rises between are entries: `low` and a finite `high` are values of some.
    void (*lower_gains)(double* gains, const T* k, int64_t stride, int64_t width, const RowRise* rises, int64_t count);

    // *gain = sum_i w_i max(k_i - m_i, 0) and *error = sum of the entries' bounds over the live ones.
    void (*scan)(KernelKind kind, const ErrorModel& error, const T* k, const float* m, const double* w, int64_t n,
                 float s_j, const float* s, double* gain, double* bound);

    // For each of `rows` rows of k: total = sum_i w_i k_i and spread = sum_i ws_i k_i, in float64.
    void (*weigh)(const T* k, int64_t stride, int64_t rows, int64_t n, const double* w, const double* ws, double* total,
                  double* spread);

    // Writes the i with k_i + bound_i > m_i, ascending; returns how many.
    int64_t (*live)(KernelKind kind, const ErrorModel& error, const T* k, const float* m, int64_t n, float s_j,
                    const float* s, int32_t* rows);
};

struct CoverageKernels {
    MatrixKernels<float> float32;
    MatrixKernels<uint16_t> uint16;

    // Inner products g_j of row i in place to kernel values; s as in ErrorModel. Returns how many are
    // kUncertain.
    int64_t (*transform)(KernelKind kind, const ErrorModel& error, float* g, int64_t n, float s_i, const float* s);

    // What rows whose coverage rises take from `width` candidates: for each event and candidate c, with
    // k = k[event.row * stride + c],
    //     gains[c] += weight (clip(k, low, high) - low), and alive[c] += seen if the bound of k reaches above low but
    //     not above high.
    // Rows of k must be readable for a multiple of 32 columns. float32 sums run over 16 events at most.
    void (*take_gains)(const ErrorModel& error, const float* k, int64_t stride, int64_t width, const RiseEvent* events,
                       int64_t count, double* gains, float* alive);

    // Index of the first largest of n > 0 values.
    int64_t (*largest)(const double* values, int64_t n);

    // Writes the j with gains_j + margins_j >= reach, ascending; returns how many.
    int64_t (*reaching)(const double* gains, const double* margins, int64_t n, double reach, int64_t* found);

    // out = (x - center) * factor in float32; returns the squared norm of out.
    double (*center_f32)(const float* x, int64_t d, const float* center, float factor, float* out);
    double (*center_f64)(const double* x, int64_t d, const double* center, float factor, float* out);
    // out = x * factor, rounded once.
    void (*scale_f32)(const float* x, int64_t d, double factor, float* out);
    void (*scale_f64)(const double* x, int64_t d, double factor, float* out);

    // out[r] = |x[rows[r]] - y|^2 or <x[rows[r]], y> in float64; x has rows of d contiguous numbers.
    void (*distances_f32)(const float* x, int64_t d, const int32_t* rows, int64_t count, const float* y, double* out);
    void (*distances_f64)(const double* x, int64_t d, const int32_t* rows, int64_t count, const double* y, double* out);
    void (*products_f32)(const float* x, int64_t d, const int32_t* rows, int64_t count, const float* y, double* out);
    void (*products_f64)(const double* x, int64_t d, const int32_t* rows, int64_t count, const double* y, double* out);
};

extern const CoverageKernels kCoverageGeneric;
extern const CoverageKernels kCoverageAvx2;  // falls back to generic code where the target is not x86
extern const CoverageKernels kCoverageAvx512;

const CoverageKernels& coverage_kernels();

template <typename T>
const MatrixKernels<T>& matrix_kernels();
template <>
inline const MatrixKernels<float>& matrix_kernels() {
    return coverage_kernels().float32;
}
template <>
inline const MatrixKernels<uint16_t>& matrix_kernels() {
    return coverage_kernels().uint16;
}

}  // namespace difal
