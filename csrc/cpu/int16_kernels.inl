// Compiled twice: for any processor, and for AVX-512 with VNNI. See difal/isa.h for what may stand here.
#include "difal/int16_rows.h"
#include "int16_kernels.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace difal {
namespace {

constexpr int64_t kPairs = kInt16Group / 2;  // per group

// What is read of a block's memory besides its int32 words.
typedef int16_t Short __attribute__((may_alias));
typedef float Step __attribute__((may_alias));

void measure(const float* __restrict a, int64_t n, float* largest, float* group) {
    float most = 0, squares = 0;
    for (int64_t begin = 0; begin < n; begin += kInt16Group) {
        float here = 0, sum = 0;
#pragma omp simd reduction(max : here) reduction(+ : sum)
        for (int64_t c = begin; c < begin + kInt16Group; ++c) {
            const float size = a[c] < 0 ? -a[c] : a[c];
            here = here > size ? here : size;
            sum += a[c] * a[c];
        }
        if (!(sum == sum)) {  // NaN
            *largest = *group = sum;
            return;
        }
        most = most > here ? most : here;
        squares = squares > sum ? squares : sum;
    }
    *largest = most;
    *group = squares;
}

// Adding it rounds a float32 below 2^22 to an integer.
constexpr float kRound = 12582912.0f;

void quantize(const float* __restrict a, int64_t n, float step, int16_t* __restrict q) {
    const float inverse = 1 / step;
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
        q[c] = static_cast<int16_t>(static_cast<int32_t>((a[c] * inverse + kRound) - kRound));
    }
}

double rounding(const float* __restrict a, int64_t n, float step, double* squared) {
    const float inverse = 1 / step;
    double error = 0, norm = 0;
#pragma omp simd reduction(+ : error, norm)
    for (int64_t c = 0; c < n; ++c) {
        const float rounded = (a[c] * inverse + kRound) - kRound;
        const double value = a[c], off = static_cast<double>(rounded) * static_cast<double>(step) - value;
        error += off * off;
        norm += value * value;
    }
    *squared = norm;
    return error;
}

#if defined(__AVX512VNNI__)

// A tile of 4 rows by 16 `vectors` columns stays in registers: int32 sums of a group, float32 sums of the groups.
// Of the columns' blocks as many pairs are used at a time as stay in the first-level cache while rows pass by.
constexpr int kTileRows = 4;
constexpr int64_t kDepth = 32 * kPairs;

struct Tile {
    const int32_t* a;  // the first pair of the first of its rows
    const int32_t* b;  // the same of its columns
    int64_t block;     // int32 from block to block
    int64_t pairs;     // a multiple of kPairs
    float* out;
    int64_t stride;
    int rows;           // to be written, 1 to 4
    __mmask16 last;     // columns of the last vector to be written
    const Step* steps;  // of the four rows
    const Step* column_steps;
    bool is_first, is_last;  // of the depths
};

template <int vectors>
inline __attribute__((always_inline)) void multiply_tile(const Tile& t) {
    const auto mask = [&](int v) { return v == vectors - 1 ? t.last : static_cast<__mmask16>(0xffff); };
    __m512 total[kTileRows][vectors];
    for (int r = 0; r < kTileRows; ++r) {
        for (int v = 0; v < vectors; ++v) {
            total[r][v] = _mm512_setzero_ps();
            if (!t.is_first && r < t.rows) total[r][v] = _mm512_maskz_loadu_ps(mask(v), t.out + r * t.stride + 16 * v);
        }
    }
    for (int64_t begin = 0; begin < t.pairs; begin += kPairs) {
        __m512i sum[kTileRows][vectors];
        for (int r = 0; r < kTileRows; ++r) {
            for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_setzero_si512();
        }
#pragma GCC unroll 4
        for (int64_t c = begin; c < begin + kPairs; ++c) {
            __m512i b[vectors];
            for (int v = 0; v < vectors; ++v) b[v] = _mm512_load_si512(t.b + v * t.block + c * kInt16Rows);
            for (int r = 0; r < kTileRows; ++r) {
                const __m512i a = _mm512_set1_epi32(t.a[c * kInt16Rows + r]);
                for (int v = 0; v < vectors; ++v) sum[r][v] = _mm512_dpwssd_epi32(sum[r][v], a, b[v]);
            }
        }
        for (int r = 0; r < kTileRows; ++r) {
            for (int v = 0; v < vectors; ++v) {
                total[r][v] += __builtin_convertvector(reinterpret_cast<__v16si>(sum[r][v]), __m512);
            }
        }
    }
    for (int r = 0; r < t.rows; ++r) {
        for (int v = 0; v < vectors; ++v) {
            __m512 value = total[r][v];
            if (t.is_last) {
                const __m512 steps = _mm512_loadu_ps(t.column_steps + v * t.block);
                value = _mm512_mul_ps(value, _mm512_mul_ps(_mm512_set1_ps(t.steps[r]), steps));
            }
            _mm512_mask_storeu_ps(t.out + r * t.stride + 16 * v, mask(v), value);
        }
    }
}

void multiply(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t pairs, float* out,
              int64_t stride) {
    constexpr int64_t kWide = 3 * kInt16Rows;
    const int64_t block = kInt16Rows * (pairs + 1);
    for (int64_t c = 0; c < pairs; c += kDepth) {
        for (int64_t j = 0; j < b_rows; j += kWide) {
            const int64_t columns = b_rows - j < kWide ? b_rows - j : kWide;
            const int vectors = static_cast<int>((columns + 15) / 16);
            const int64_t beyond = 16 * vectors - columns;
            for (int64_t i = 0; i < a_rows; i += kTileRows) {
                const int32_t* a_block = a + i / kInt16Rows * block;
                const int32_t* b_block = b + j / kInt16Rows * block;
                Tile t;
                t.a = a_block + c * kInt16Rows + i % kInt16Rows;
                t.b = b_block + c * kInt16Rows;
                t.block = block;
                t.pairs = pairs - c < kDepth ? pairs - c : kDepth;
                t.out = out + i * stride + j;
                t.stride = stride;
                t.rows = static_cast<int>(a_rows - i < kTileRows ? a_rows - i : kTileRows);
                t.last = static_cast<__mmask16>(0xffff >> beyond);
                t.steps = reinterpret_cast<const Step*>(a_block + pairs * kInt16Rows) + i % kInt16Rows;
                t.column_steps = reinterpret_cast<const Step*>(b_block + pairs * kInt16Rows);
                t.is_first = c == 0;
                t.is_last = c + t.pairs == pairs;
                if (vectors == 3) multiply_tile<3>(t);
                if (vectors == 2) multiply_tile<2>(t);
                if (vectors == 1) multiply_tile<1>(t);
            }
        }
    }
}

#else

void multiply(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t pairs, float* out,
              int64_t stride) {
    const int64_t block = kInt16Rows * (pairs + 1);
    for (int64_t i = 0; i < a_rows; ++i) {
        const int32_t* a_block = a + i / kInt16Rows * block;
        const Short* x = reinterpret_cast<const Short*>(a_block + i % kInt16Rows);
        const float step = reinterpret_cast<const Step*>(a_block + pairs * kInt16Rows)[i % kInt16Rows];
        for (int64_t j = 0; j < b_rows; j += kInt16Rows) {
            const Short* y = reinterpret_cast<const Short*>(b + j / kInt16Rows * block);
            const Step* steps = reinterpret_cast<const Step*>(b + j / kInt16Rows * block + pairs * kInt16Rows);
            float total[kInt16Rows] = {};
            for (int64_t begin = 0; begin < pairs; begin += kPairs) {
                int32_t sum[kInt16Rows] = {};
                for (int64_t c = begin; c < begin + kPairs; ++c) {
                    const int32_t x0 = x[c * 2 * kInt16Rows], x1 = x[c * 2 * kInt16Rows + 1];
                    for (int64_t s = 0; s < kInt16Rows; ++s) {
                        sum[s] += x0 * y[(c * kInt16Rows + s) * 2] + x1 * y[(c * kInt16Rows + s) * 2 + 1];
                    }
                }
                for (int64_t s = 0; s < kInt16Rows; ++s) total[s] += static_cast<float>(sum[s]);
            }
            for (int64_t s = 0; s < kInt16Rows && j + s < b_rows; ++s)
                out[i * stride + j + s] = total[s] * (step * steps[s]);
        }
    }
}

#endif

}  // namespace

const Int16Kernels DIFAL_INT16_TABLE = {measure, quantize, rounding, multiply};

}  // namespace difal
