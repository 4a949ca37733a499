// What the tiles compute, as it reads. For tests, and for processors without AMX where DIFAL_ISA asks for it.
#include "difal/int16_rows.h"
#include "int16_tiles.h"

namespace difal {
namespace {

void split(const int16_t* q, int64_t n, uint8_t* hi, uint8_t* lo) {
    for (int64_t c = 0; c < n; ++c) {
        const int32_t low = q[c] & 255;
        lo[c] = static_cast<uint8_t>(low);
        hi[c] = static_cast<uint8_t>((q[c] - low) / 256);
    }
}

int64_t number(const uint8_t* block, int64_t numbers, int64_t row, int64_t c) {
    const int64_t at = c / 4 * 64 + row * 4 + c % 4;
    return 256 * static_cast<int8_t>(block[at]) + block[numbers * kInt16Rows + at];
}

// Rounded once below 2^40, twice at most above.
float to_float(int64_t sum) {
    const int64_t rest = sum & 65535;
    const double high = static_cast<float>((sum - rest) / 65536);
    return static_cast<float>(high * 65536 + static_cast<double>(rest));
}

void multiply(const int32_t* a, int64_t a_rows, const int32_t* b, int64_t b_rows, int64_t numbers, float* out,
              int64_t stride) {
    const int64_t words = kInt16Rows * (numbers / 2 + 1);
    for (int64_t i = 0; i < a_rows; ++i) {
        const uint8_t* x = reinterpret_cast<const uint8_t*>(a + i / kInt16Rows * words);
        const float* x_steps = reinterpret_cast<const float*>(x + 2 * numbers * kInt16Rows);
        for (int64_t j = 0; j < b_rows; ++j) {
            const uint8_t* y = reinterpret_cast<const uint8_t*>(b + j / kInt16Rows * words);
            const float* y_steps = reinterpret_cast<const float*>(y + 2 * numbers * kInt16Rows);
            int64_t sum = 0;
            for (int64_t c = 0; c < numbers; ++c) {
                sum += number(x, numbers, i % kInt16Rows, c) * number(y, numbers, j % kInt16Rows, c);
            }
            out[i * stride + j] = to_float(sum) * (x_steps[i % kInt16Rows] * y_steps[j % kInt16Rows]);
        }
    }
}

}  // namespace

const Int16TileKernels kInt16TilesGeneric = {split, multiply};

}  // namespace difal
