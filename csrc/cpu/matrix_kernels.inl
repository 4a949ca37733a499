// The inner loops on a stored matrix, for entries of either type. Included by coverage_kernels.inl; what is said there
// holds here.
#include "difal/coverage_kernels.h"
#include "difal/each_kind.h"
#include "difal/estimate.h"

namespace difal {
namespace {

// How far the entry of value k may be from the truth: entry_bound grows with k, so at the largest value that may have
// been rounded to k, and what rounding moved it by.
template <KernelKind kind>
float bound_of(const ErrorModel& e, float k, float sum) {
    return entry_bound<kind>(e, k + e.quantization_err, sum) + e.quantization_err;
}

// A kernel value, or a coverage, as an entry of the matrix.
template <typename T>
T entry_of(float k) {
    if constexpr (sizeof(T) == 2) return stored_entry(k);
    return k;
}

template <typename T>
void store(const float* __restrict k, int64_t n, T* __restrict out) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) out[j] = entry_of<T>(k[j]);
}

template <KernelKind kind, typename T>
void scan_as(const ErrorModel& error, const T* __restrict k, const float* __restrict m, const double* __restrict w,
             int64_t n, float s_j, const float* __restrict s, double* gain, double* bound) {
    double total = 0, slack = 0;
    const ErrorModel e = error;
#pragma omp simd reduction(+ : total, slack)
    for (int64_t i = 0; i < n; ++i) {
        const float v = entry_value(k[i]), b = bound_of<kind>(e, v, s[i] + s_j);
        const double rise = static_cast<double>(v) - static_cast<double>(m[i]);
        total += w[i] * (rise > 0 ? rise : 0.0);
        slack += w[i] * static_cast<double>(v + b > m[i] ? b : 0.0f);
    }
    *gain = total;
    *bound = slack;
}

// Rows together share the loads of the weights.
template <int rows, typename T>
void weigh_some(const T* __restrict k, int64_t stride, int64_t n, const double* __restrict w,
                const double* __restrict ws, double* __restrict total, double* __restrict spread) {
    const T *k0 = k, *k1 = k + (rows > 1) * stride, *k2 = k + (rows > 2) * 2 * stride,
            *k3 = k + (rows > 3) * 3 * stride;
    double t0 = 0, t1 = 0, t2 = 0, t3 = 0, u0 = 0, u1 = 0, u2 = 0, u3 = 0;
#pragma omp simd reduction(+ : t0, t1, t2, t3, u0, u1, u2, u3)
    for (int64_t i = 0; i < n; ++i) {
        const double a = w[i], b = ws[i];
        const double v0 = entry_value(k0[i]), v1 = entry_value(k1[i]);
        const double v2 = entry_value(k2[i]), v3 = entry_value(k3[i]);
        t0 += a * v0, u0 += b * v0;
        if constexpr (rows > 1) t1 += a * v1, u1 += b * v1;
        if constexpr (rows > 2) t2 += a * v2, u2 += b * v2;
        if constexpr (rows > 3) t3 += a * v3, u3 += b * v3;
    }
    const double t[] = {t0, t1, t2, t3}, u[] = {u0, u1, u2, u3};
    for (int r = 0; r < rows; ++r) total[r] = t[r], spread[r] = u[r];
}

template <typename T>
void weigh(const T* k, int64_t stride, int64_t rows, int64_t n, const double* w, const double* ws, double* total,
           double* spread) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) weigh_some<4>(k + r * stride, stride, n, w, ws, total + r, spread + r);
    for (; r < rows; ++r) weigh_some<1>(k + r * stride, stride, n, w, ws, total + r, spread + r);
}

template <KernelKind kind, typename T>
int64_t live_as(const ErrorModel& error, const T* __restrict k, const float* __restrict m, int64_t n, float s_j,
                const float* __restrict s, int32_t* __restrict rows) {
    const ErrorModel e = error;
    const float stretch = 1 + 2 * e.tolerance + e.relative, more = e.absolute + 2 * e.quantization_err;  // as may_reach
    int64_t count = 0;
    constexpr int64_t kChunk = 64, kAhead = 512, kLine = 64 / sizeof(T);
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const int64_t size = n - begin < kChunk ? n - begin : kChunk;
        for (int64_t line = 0; line < kChunk; line += kLine) __builtin_prefetch(k + begin + line + kAhead);
        int32_t any = 0;
#pragma omp simd reduction(| : any)
        for (int64_t i = begin; i < begin + size; ++i) any |= entry_value(k[i]) * stretch + more > m[i];
        if (!any) continue;
        uint8_t flags[kChunk] = {};
#pragma omp simd
        for (int64_t c = 0; c < size; ++c) {
            const int64_t i = begin + c;
            const float v = entry_value(k[i]);
            flags[c] = v + bound_of<kind>(e, v, s[i] + s_j) > m[i];
        }
        for (int64_t c = 0; c < size; c += 8) {
            uint64_t eight;  // flags, of which few are set: the lowest one is the next row
            __builtin_memcpy(&eight, flags + c, 8);
            for (; eight; eight &= eight - 1)
                rows[count++] = static_cast<int32_t>(begin + c + __builtin_ctzll(eight) / 8);
        }
    }
    return count;
}

template <typename T>
void scan(KernelKind kind, const ErrorModel& error, const T* k, const float* m, const double* w, int64_t n, float s_j,
          const float* s, double* gain, double* bound) {
#define DIFAL_CALL(K) scan_as<K>(error, k, m, w, n, s_j, s, gain, bound)
    DIFAL_EACH_KIND(DIFAL_CALL);
#undef DIFAL_CALL
}

template <typename T>
int64_t live(KernelKind kind, const ErrorModel& error, const T* k, const float* m, int64_t n, float s_j, const float* s,
             int32_t* rows) {
#define DIFAL_CALL(K) live_as<K>(error, k, m, n, s_j, s, rows)
    DIFAL_EACH_KIND(DIFAL_CALL);
#undef DIFAL_CALL
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define DIFAL_SHUFFLES 1
#endif
#endif

#ifdef DIFAL_SHUFFLES
template <typename T>
struct Eight {
    typedef T Vector __attribute__((vector_size(8 * sizeof(T))));
    typedef T Loose __attribute__((vector_size(8 * sizeof(T)), aligned(sizeof(T)), may_alias));
};

// An 8 x 8 block in registers: neighbouring rows interleaved by one number, then by two, then by four.
template <typename T>
void transpose_eight(const T* src, int64_t ld_src, T* dst, int64_t ld_dst) {
    using Loose = typename Eight<T>::Loose;
    typename Eight<T>::Vector a[8], b[8];
    for (int r = 0; r < 8; ++r) a[r] = *reinterpret_cast<const Loose*>(src + r * ld_src);
    for (int r = 0; r < 8; r += 2) {
        b[r] = __builtin_shufflevector(a[r], a[r + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        b[r + 1] = __builtin_shufflevector(a[r], a[r + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int h = 0; h < 8; h += 4) {
        for (int r = h; r < h + 2; ++r) {
            a[r] = __builtin_shufflevector(b[r], b[r + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            a[r + 2] = __builtin_shufflevector(b[r], b[r + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int r = 0; r < 4; ++r) {
        b[r] = __builtin_shufflevector(a[r], a[r + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        b[r + 4] = __builtin_shufflevector(a[r], a[r + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int r = 0; r < 8; ++r) *reinterpret_cast<Loose*>(dst + r * ld_dst) = b[r];
}
#endif

template <typename T>
void transpose(const T* src, int64_t ld_src, int64_t rows, int64_t cols, T* dst, int64_t ld_dst) {
    constexpr int64_t kBlock = 64 / sizeof(T);  // a line of the cache
    for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
        const int64_t r1 = r0 + kBlock < rows ? r0 + kBlock : rows;
        int64_t c0 = 0;
#ifdef DIFAL_SHUFFLES
        for (; r1 - r0 == kBlock && c0 + 8 <= cols; c0 += 8) {
            for (int64_t r = r0; r < r1; r += 8)
                transpose_eight(src + r * ld_src + c0, ld_src, dst + c0 * ld_dst + r, ld_dst);
        }
#endif
        for (int64_t c = c0; c < cols; ++c) {
            for (int64_t r = r0; r < r1; ++r) dst[c * ld_dst + r] = src[r * ld_src + c];
        }
    }
}

// How much an entry of the matrix lies above another: exactly nothing, where it is the same.
inline double between(float low, float k) {
    return static_cast<double>(k) - static_cast<double>(low);
}
inline double between(uint16_t low, uint16_t k) {
    return static_cast<double>(k - low) * (1 / static_cast<double>(kSteps));
}

// Rows together share the loads and stores of the gains. What comes next of each row is asked for ahead: the
// processor's own prefetching starts anew at every page, and rows are a few pages long.
template <int rows, typename T>
void lower_some(double* __restrict gains, const T* __restrict k, int64_t stride, int64_t width,
                const RowRise* __restrict rises) {
    constexpr int64_t kLine = 64 / sizeof(T), kAhead = 512;
    const T* row[rows];
    T low[rows], high[rows];
    for (int r = 0; r < rows; ++r) {
        row[r] = k + rises[r].row * stride;
        low[r] = entry_of<T>(rises[r].low);
        high[r] = entry_of<T>(rises[r].high);
    }
    for (int64_t begin = 0; begin < width; begin += kLine) {
        const int64_t end = begin + kLine < width ? begin + kLine : width;
        for (int r = 0; r < rows; ++r) __builtin_prefetch(row[r] + begin + kAhead);
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) {
            double gain = gains[j];
            for (int r = 0; r < rows; ++r) {
                const T above = row[r][j] > low[r] ? row[r][j] : low[r];
                gain -= rises[r].weight * between(low[r], above < high[r] ? above : high[r]);
            }
            gains[j] = gain;
        }
    }
}

template <typename T>
void lower_apart(double* gains, const T* k, int64_t stride, int64_t width, const RowRise* rises, int64_t count) {
    int64_t r = 0;
    for (; r + 4 <= count; r += 4) lower_some<4>(gains, k, stride, width, rises + r);
    if (count - r == 3) lower_some<3>(gains, k, stride, width, rises + r);
    if (count - r == 2) lower_some<2>(gains, k, stride, width, rises + r);
    if (count - r == 1) lower_some<1>(gains, k, stride, width, rises + r);
}

// Sixteen columns of the matrix at a time; the compiler keeps them in registers, however wide those are.
typedef uint16_t Entries __attribute__((vector_size(32)));
typedef uint16_t LooseEntries __attribute__((vector_size(32), aligned(2), may_alias));
typedef int32_t Sums __attribute__((vector_size(64)));
typedef double Gains __attribute__((vector_size(128)));
typedef double LooseGains __attribute__((vector_size(128), aligned(8), may_alias));

// Rows of one weight: what they take is an integer, and summed as such.
template <int rows>
void lower_together(double* __restrict gains, const uint16_t* __restrict k, int64_t stride, int64_t width,
                    const RowRise* __restrict rises) {
    constexpr int64_t kLanes = 16, kAhead = 1024;
    const uint16_t* row[rows];
    uint16_t low[rows], high[rows];
    for (int r = 0; r < rows; ++r) {
        row[r] = k + rises[r].row * stride;
        low[r] = stored_entry(rises[r].low);
        high[r] = stored_entry(rises[r].high);
    }
    const double weight = rises[0].weight, step = 1 / static_cast<double>(kSteps);
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) {
        Sums sum{};
        for (int r = 0; r < rows; ++r) {
            if (j % (2 * kLanes) == 0) __builtin_prefetch(row[r] + j + kAhead);
            const Entries entries = *reinterpret_cast<const LooseEntries*>(row[r] + j);
            const Entries least = Entries{} + low[r], most = Entries{} + high[r];
            const Entries above = entries > least ? entries : least;
            sum += __builtin_convertvector((above < most ? above : most) - least, Sums);
        }
        LooseGains* at = reinterpret_cast<LooseGains*>(gains + j);
        *at -= weight * (step * __builtin_convertvector(sum, Gains));
    }
    for (; j < width; ++j) {
        int32_t sum = 0;
        for (int r = 0; r < rows; ++r) {
            const uint16_t above = row[r][j] > low[r] ? row[r][j] : low[r];
            sum += (above < high[r] ? above : high[r]) - low[r];
        }
        gains[j] -= weight * (step * sum);
    }
}

void lower_gains(double* gains, const float* k, int64_t stride, int64_t width, const RowRise* rises, int64_t count) {
    lower_apart(gains, k, stride, width, rises, count);
}

void lower_gains(double* gains, const uint16_t* k, int64_t stride, int64_t width, const RowRise* rises, int64_t count) {
    constexpr int64_t kTogether = 8;
    for (int64_t begin = 0; begin < count;) {
        const int64_t most = count - begin < kTogether ? count - begin : kTogether;
        int64_t equal = 1;
        while (equal < most && rises[begin + equal].weight == rises[begin].weight) ++equal;
        if (equal == kTogether) {
            lower_together<kTogether>(gains, k, stride, width, rises + begin);
        } else {
            lower_apart(gains, k, stride, width, rises + begin, most);
        }
        begin += most;
    }
}

}  // namespace
}  // namespace difal
