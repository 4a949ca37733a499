// Farthest-first traversal (k-center greedy) in float64, memory linear in N and in the number of centres.
//
// The distance of a point to its nearest centre only falls as centres come. So a point is brought up to date no sooner
// than its old distance, an upper bound, is among the largest; then it meets all centres that it has not seen, many
// points and many centres at a time, as products of low precision that bound the distances from below. Only the pairs
// whose bound is below the point's distance are computed, in float64. A bound decides what is computed, never a pick.
#pragma once

#include <cstdint>
#include <memory>

#include "difal/number_type.h"

namespace difal {

class Farthest {
  public:
    // features: (N, D) contiguous, narrow ones widened some rows at a time; allowed (N,): may the point be picked,
    // null: all.
    Farthest(int64_t rows, int64_t dimension, NumberType type, const void* features, const uint8_t* allowed,
             int threads);
    ~Farthest();

    // Points that are centres already, float64 where the features are, else float32; they must outlive this.
    void cover(const void* points, int64_t count);

    // The next `count` picks and the distance of each to its nearest centre before, infinite if there was none.
    void select(int64_t count, int64_t* picks, double* distances);

    double radius();  // of all points, the largest distance to the nearest centre

    int64_t reads() const;   // distances computed in float64
    int64_t bounds() const;  // distances bounded by products

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace difal
