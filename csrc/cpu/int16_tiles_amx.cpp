// See difal/isa.h for what may stand here.
#include "difal/int16_rows.h"
#include "int16_tiles.h"

#if defined(__AMX_INT8__) && defined(__AVX512F__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // of GCC's own header, wrongly (its bug 105593)
#endif
#include <immintrin.h>
#endif

namespace difal {

#if defined(__AMX_INT8__) && defined(__AVX512F__)

namespace {

// Tile registers: the sums of hi hi, hi lo, lo hi and lo lo of 16 x 16 products, and what they are made of. The two
// mixed sums are kept apart, since each instruction waits for the one before with the same sum.
constexpr int64_t kTileWords = 256;
constexpr int64_t kDepth = 8;   // tiles of a row's numbers that stay in the first-level cache while columns pass by
constexpr int64_t kGroup = 16;  // blocks of columns that a block of rows is turned for

// What is read of a block's memory besides its int32 words.
typedef float Step __attribute__((may_alias));

struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void split(const int16_t* q, int64_t n, uint8_t* hi, uint8_t* lo) {
    for (int64_t c = 0; c < n; c += 32) {
        const __m512i v = _mm512_loadu_si512(q + c);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(lo + c), _mm512_cvtepi16_epi8(v));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(hi + c), _mm512_cvtepi16_epi8(_mm512_srai_epi16(v, 8)));
    }
}

// dst[r * 16 + c] = src[c * 16 + r], 16 x 16 words.
inline __attribute__((always_inline)) void turn(const int32_t* src, int32_t* dst) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(src + 16 * i);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        for (int k = 0; k < 2; ++k) {
            r[i + 2 * k] = _mm512_unpacklo_epi64(t[i + k], t[i + k + 2]);
            r[i + 2 * k + 1] = _mm512_unpackhi_epi64(t[i + k], t[i + k + 2]);
        }
    }
    // r[4 g + k] holds, in its four parts of 128 bits, column 4 part + k of the rows 4 g to 4 g + 3.
    for (int k = 0; k < 4; ++k) {
        const __m512i even_01 = _mm512_shuffle_i32x4(r[k], r[4 + k], 0x88),
                      odd_01 = _mm512_shuffle_i32x4(r[k], r[4 + k], 0xdd);
        const __m512i even_23 = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0x88),
                      odd_23 = _mm512_shuffle_i32x4(r[8 + k], r[12 + k], 0xdd);
        _mm512_store_si512(dst + 16 * k, _mm512_shuffle_i32x4(even_01, even_23, 0x88));
        _mm512_store_si512(dst + 16 * (4 + k), _mm512_shuffle_i32x4(odd_01, odd_23, 0x88));
        _mm512_store_si512(dst + 16 * (8 + k), _mm512_shuffle_i32x4(even_01, even_23, 0xdd));
        _mm512_store_si512(dst + 16 * (12 + k), _mm512_shuffle_i32x4(odd_01, odd_23, 0xdd));
    }
}

// The four sums of 16 x 16 products to float32: what is above a byte is carried to the next, so no sum leaves int32.
inline __attribute__((always_inline)) void finish(const int32_t* sums, const Step* row_steps, const Step* column_steps,
                                                  int64_t rows, __mmask16 columns, float* out, int64_t stride) {
    const __m512 steps = _mm512_loadu_ps(column_steps);
    const __m512i byte = _mm512_set1_epi32(255);
    for (int64_t r = 0; r < rows; ++r) {
        const int32_t* s = sums + 16 * r;
        const auto load = [&](int which) { return _mm512_load_si512(s + which * kTileWords); };
        const __m512i low = load(3);
        const __m512i mixed = _mm512_add_epi32(_mm512_add_epi32(load(1), load(2)), _mm512_srli_epi32(low, 8));
        const __m512i high = _mm512_add_epi32(load(0), _mm512_srai_epi32(mixed, 8));
        const __m512i rest =
            _mm512_or_si512(_mm512_and_si512(low, byte), _mm512_slli_epi32(_mm512_and_si512(mixed, byte), 8));
        const __m512 sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(65536), _mm512_cvtepi32_ps(rest));
        const __m512 value = _mm512_mul_ps(sum, _mm512_mul_ps(_mm512_set1_ps(row_steps[r]), steps));
        _mm512_mask_storeu_ps(out + r * stride, columns, value);
    }
}

void multiply(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t numbers, float* out,
              int64_t stride) {
    const TileConfig config;
    _tile_loadconfig(&config);
    const int64_t tiles = numbers / kTileNumbers;             // of the hi of a block, and as many of the lo
    const int64_t block = kInt16Rows * (numbers / 2 + 1);     // int32 words
    alignas(64) int32_t transposed[2 * kDepth * kTileWords];  // hi and lo of a block's rows
    alignas(64) int32_t sums[kGroup * 4 * kTileWords];
    for (int64_t i = 0; i < a_rows; i += kInt16Rows) {
        const int32_t* a_block = a + i / kInt16Rows * block;
        const Step* row_steps = reinterpret_cast<const Step*>(a_block + block - kInt16Rows);
        const int64_t rows = a_rows - i < kInt16Rows ? a_rows - i : kInt16Rows;
        for (int64_t group = 0; group < b_rows; group += kGroup * kInt16Rows) {
            const int64_t end = b_rows - group < kGroup * kInt16Rows ? b_rows : group + kGroup * kInt16Rows;
            for (int64_t k0 = 0; k0 < tiles; k0 += kDepth) {
                const int64_t depth = tiles - k0 < kDepth ? tiles - k0 : kDepth;
                const bool is_first = k0 == 0, is_last = k0 + depth == tiles;
                if (!(is_first && is_last && group > 0)) {
                    for (int64_t k = 0; k < depth; ++k) {
                        turn(a_block + (k0 + k) * kTileWords, transposed + 2 * k * kTileWords);
                        turn(a_block + (tiles + k0 + k) * kTileWords, transposed + (2 * k + 1) * kTileWords);
                    }
                }
                for (int64_t j = group; j < end; j += kInt16Rows) {
                    const int32_t* b_block = b + j / kInt16Rows * block;
                    // Where one pass is all, two buffers are used in turn.
                    const int64_t buffer = is_first && is_last ? j / kInt16Rows % 2 : (j - group) / kInt16Rows;
                    int32_t* sum = sums + buffer * 4 * kTileWords;
                    if (is_first) {
                        _tile_zero(0);
                        _tile_zero(1);
                        _tile_zero(2);
                        _tile_zero(3);
                    } else {
                        _tile_loadd(0, sum, 64);
                        _tile_loadd(1, sum + kTileWords, 64);
                        _tile_loadd(2, sum + 2 * kTileWords, 64);
                        _tile_loadd(3, sum + 3 * kTileWords, 64);
                    }
                    const int32_t* b_hi = b_block + k0 * kTileWords;
                    const int32_t* b_lo = b_hi + tiles * kTileWords;
                    for (int64_t k = 0; k < depth; ++k) {
                        _tile_loadd(6, b_hi + k * kTileWords, 64);
                        _tile_loadd(7, b_lo + k * kTileWords, 64);
                        _tile_loadd(4, transposed + 2 * k * kTileWords, 64);
                        _tile_loadd(5, transposed + (2 * k + 1) * kTileWords, 64);
                        _tile_dpbssd(0, 4, 6);
                        _tile_dpbsud(1, 4, 7);
                        _tile_dpbusd(2, 5, 6);
                        _tile_dpbuud(3, 5, 7);
                    }
                    _tile_stored(0, sum, 64);
                    _tile_stored(1, sum + kTileWords, 64);
                    _tile_stored(2, sum + 2 * kTileWords, 64);
                    _tile_stored(3, sum + 3 * kTileWords, 64);
                    if (!is_last) continue;
                    const int64_t columns = b_rows - j < kInt16Rows ? b_rows - j : kInt16Rows;
                    finish(sum, row_steps, reinterpret_cast<const Step*>(b_block + block - kInt16Rows), rows,
                           static_cast<__mmask16>(0xffff >> (kInt16Rows - columns)), out + i * stride + j, stride);
                }
            }
        }
    }
    _tile_release();
}

}  // namespace

const Int16TileKernels kInt16TilesAmx = {split, multiply};
const bool kHasInt16TilesAmx = true;

#else

const Int16TileKernels kInt16TilesAmx = {nullptr, nullptr};
const bool kHasInt16TilesAmx = false;

#endif

}  // namespace difal
