// Lower bounds of the squared distances between rows of features, many at a time: from products of low precision, less
// what those may be off. See docs/exactness.md.
#pragma once

#include <cstdint>
#include <vector>

namespace difal {

// Rows ready to be multiplied, in blocks of 16.
struct BoundRows {
    struct alignas(64) Line {
        int32_t words[16];
    };
    std::vector<Line> blocks;
    std::vector<float> squared;  // norms of the centred rows
    std::vector<float> slack;    // share of |a|^2 + |b|^2 that the squared distance may be off; infinite: no bound

    int64_t size() const { return static_cast<int64_t>(squared.size()); }
};

class DistanceBounds {
  public:
    // Rows have `dimension` contiguous numbers, float64 or float32; `rows` of them, from `features` on, say where the
    // origin is best.
    DistanceBounds(const void* features, int64_t rows, int64_t dimension, bool is_double);

    // Prepares rows, given by their addresses, from position `begin` on: a multiple of 16.
    void prepare(const void* const* rows, int64_t count, BoundRows& out, int64_t begin = 0) const;

    // out[i * stride + j] = the inner product of row i of a and row begin + j of b, j < count; begin as above.
    void multiply(const BoundRows& a, int64_t a_rows, const BoundRows& b, int64_t begin, int64_t count, float* out,
                  int64_t stride) const;

    int64_t bytes_per_block() const { return lines_ * static_cast<int64_t>(sizeof(BoundRows::Line)); }

  private:
    void prepare_block(const void* const* rows, int64_t count, BoundRows& out, int64_t begin) const;

    int64_t dimension_, row_bytes_, lines_;
    bool is_double_, in_integers_;
    std::vector<double> center_;  // of the features' type
};

}  // namespace difal
