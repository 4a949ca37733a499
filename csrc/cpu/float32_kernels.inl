// Compiled once per instruction set; see difal/isa.h for what may stand here.
#include "float32_kernels.h"

namespace difal {
namespace {

constexpr int64_t kBlock = 16;   // rows per block
constexpr int64_t kDepth = 256;  // numbers of the columns' blocks that stay in cache while rows pass by
constexpr int kTileRows = 4;
#if defined(__AVX512F__)
constexpr int kTileBlocks = 3;  // a tile of 4 x 48 sums fills the registers
#else
constexpr int kTileBlocks = 1;
#endif

// One number of each row of a block. The compiler keeps it in registers, whatever the instruction set's own width.
typedef float Lanes __attribute__((vector_size(64), may_alias));
typedef float LooseLanes __attribute__((vector_size(64), aligned(4), may_alias));

struct Tile {
    const float* a;  // the first number of the first of its rows
    const float* b;  // the same of its columns
    int64_t block;   // numbers from block to block
    int64_t depth;
    float* out;
    int64_t stride;
    int64_t rows, columns;  // to be written
    bool is_first;          // of the depths
};

template <int blocks>
inline __attribute__((always_inline)) void multiply_tile(const Tile& t) {
    Lanes sum[kTileRows][blocks] = {};
    for (int64_t c = 0; c < t.depth; ++c) {
        Lanes b[blocks];
        for (int v = 0; v < blocks; ++v) b[v] = *reinterpret_cast<const Lanes*>(t.b + v * t.block + c * kBlock);
        for (int r = 0; r < kTileRows; ++r) {
            for (int v = 0; v < blocks; ++v) sum[r][v] += t.a[c * kBlock + r] * b[v];
        }
    }
    for (int r = 0; r < t.rows; ++r) {
        for (int v = 0; v < blocks; ++v) {
            float* out = t.out + r * t.stride + v * kBlock;
            const int64_t width = t.columns - v * kBlock;
            if (width >= kBlock) {
                LooseLanes* to = reinterpret_cast<LooseLanes*>(out);
                *to = t.is_first ? sum[r][v] : sum[r][v] + *to;
            } else {
                for (int64_t l = 0; l < width; ++l) out[l] = t.is_first ? sum[r][v][l] : sum[r][v][l] + out[l];
            }
        }
    }
}

void multiply(const float* a, int64_t a_rows, const float* b, int64_t b_rows, int64_t dimension, float* out,
              int64_t stride) {
    constexpr int64_t kWide = kTileBlocks * kBlock;
    const int64_t block = kBlock * dimension;
    for (int64_t c = 0; c < dimension; c += kDepth) {
        for (int64_t j = 0; j < b_rows; j += kWide) {
            for (int64_t i = 0; i < a_rows; i += kTileRows) {
                Tile t;
                t.a = a + i / kBlock * block + c * kBlock + i % kBlock;
                t.b = b + j / kBlock * block + c * kBlock;
                t.block = block;
                t.depth = dimension - c < kDepth ? dimension - c : kDepth;
                t.out = out + i * stride + j;
                t.stride = stride;
                t.rows = a_rows - i < kTileRows ? a_rows - i : kTileRows;
                t.columns = b_rows - j < kWide ? b_rows - j : kWide;
                t.is_first = c == 0;
                if (t.columns > 2 * kBlock)
                    multiply_tile<kTileBlocks>(t);
                else if (t.columns > kBlock)
                    multiply_tile < kTileBlocks<2 ? kTileBlocks : 2>(t);
                else
                    multiply_tile<1>(t);
            }
        }
    }
}

float least(const float* __restrict g, const float* __restrict s, int64_t n, float share) {
    float low = share * s[0] - 2 * g[0];
#pragma omp simd reduction(min : low)
    for (int64_t j = 0; j < n; ++j) {
        const float v = share * s[j] - 2 * g[j];
        low = v < low ? v : low;
    }
    return low;
}

int64_t below(const float* __restrict g, const float* __restrict s, int64_t n, float share, float reach,
              int32_t* __restrict found) {
    constexpr int64_t kChunk = 64;
    int64_t count = 0;
    for (int64_t begin = 0; begin < n; begin += kChunk) {
        const int64_t end = n - begin < kChunk ? n : begin + kChunk;
        int32_t any = 0;
#pragma omp simd reduction(+ : any)
        for (int64_t j = begin; j < end; ++j) any += share * s[j] - 2 * g[j] < reach;
        for (int64_t j = begin; any && j < end; ++j) {
            if (share * s[j] - 2 * g[j] < reach) found[count++] = static_cast<int32_t>(j);
        }
    }
    return count;
}

}  // namespace

const Float32Kernels DIFAL_FLOAT32_TABLE = {multiply, least, below};

}  // namespace difal
