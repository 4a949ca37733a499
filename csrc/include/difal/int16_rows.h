// Rows of features as 16-bit integers times a step of their own, and their inner products, which processors with VNNI
// make twice as fast as those of float32, and processors with AMX faster still.
//
// A row a (float32, as prepare_rows makes it) is stored as q = round(a / step). Products of q are summed in int32,
// which is exact. With AMX that holds for a whole row, and the sum is rounded to float32 once. Without, it holds for
// groups of kInt16Group numbers, since the steps are such that the norm of q over a group is below sqrt(2^31), and the
// sums of the groups are added in float32. So what is lost is the rounding of q, and how large that is relative to the
// row is measured for each; see docs/exactness.md.
//
// Layout: rows in blocks of 16; in a block the numbers 2 c and 2 c + 1 of all its rows are neighbours, 64 bytes, for
// c = 0, 1, ... up to the dimension rounded up to whole groups; then the 16 steps, float32. With AMX: see
// int16_tiles.h. Missing rows and numbers are 0.
#pragma once

#include <cstdint>

#include "difal/rows.h"

namespace difal {

constexpr int64_t kInt16Rows = 16;   // rows per block
constexpr int64_t kInt16Group = 32;  // numbers whose products are summed in int32

// Whether rows of that many numbers are laid out for tiles of 8-bit integers.
bool int16_in_tiles(int64_t dimension);

// int32 words per block.
int64_t int16_block_size(int64_t dimension);

// float32 roundings, of 2^-24 each relative to the product of the norms, in a sum of products before the two steps.
int64_t int16_roundings(int64_t dimension);

// The largest |q step - a| / |a| of the rows, rounded up; infinity where a row's numbers are so large or small, or no
// numbers, that float32 cannot tell its norm. job.out is not used.
double int16_rounding(const RowsJob& job);

// `out`, aligned to 64 bytes, has a block for every 16 rows begun. job.out is not used. Rows whose rounding is infinite
// become 0. `rounding` (rows,), if given: that of each row.
void prepare_int16_rows(const RowsJob& job, int32_t* out, double* rounding = nullptr);

// out[i * stride + j] = the inner product of row i of a and row j of b, float32; the same to the last bit with a and b
// exchanged.
void multiply_int16_rows(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t dimension,
                         float* out, int64_t stride);

}  // namespace difal
