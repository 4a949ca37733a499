// Rows of 16-bit integers as bytes, for tiles of 8-bit integers (AMX): a number is 256 hi + lo with hi signed and lo
// not, so a product of two rows is four products of bytes. One table for processors with AMX, one that says what it
// computes.
//
// Layout: blocks of 16 rows. In a block first all hi and then all lo: the numbers 4 c to 4 c + 3 of all its rows are
// neighbours, 64 bytes, for c = 0, 1, ... up to the dimension rounded up to a multiple of 64; then the 16 steps,
// float32.
#pragma once

#include <cstdint>

namespace difal {

constexpr int64_t kTileNumbers = 64;  // numbers of a row in one tile
// So many numbers of a row add up without leaving int32: |hi lo| <= 2^15 for each and two of them together, lo lo <
// 2^16.
constexpr int64_t kMaxTileNumbers = 1 << 15;

struct Int16TileKernels {
    // The bytes of a row of n numbers, a multiple of 64.
    void (*split)(const int16_t* q, int64_t n, uint8_t* hi, uint8_t* lo);

    // out[i * stride + j] = 2^16 high + rest times the two rows' steps, where the exact sum of products is that with
    // `rest` from 0 to 2^16 - 1, and `high` is rounded to float32.
    void (*multiply)(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t numbers, float* out,
                     int64_t stride);
};

extern const Int16TileKernels kInt16TilesGeneric;
extern const Int16TileKernels kInt16TilesAmx;
extern const bool kHasInt16TilesAmx;  // false where the compiler or the target knows no AMX: then the table is empty

}  // namespace difal
