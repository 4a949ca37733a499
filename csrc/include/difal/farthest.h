// Farthest-first traversal (k-center greedy) in float64, memory linear in N.
//
// Each point knows its nearest centre and the distance m to it. A new centre c cannot be nearer to a point than its
// centre b when |c - b| >= 2 m (triangle inequality), so most points are not even read once the centres are many.
#pragma once

#include <cstdint>
#include <memory>

namespace difal {

class Farthest {
  public:
    // features: (N, D) contiguous, float64 or float32; allowed (N,): may the point be picked, null: all.
    Farthest(int64_t rows, int64_t dimension, bool is_double, const void* features, const uint8_t* allowed,
             int threads);
    ~Farthest();

    // Points that are centres already, of the features' type; they must outlive this.
    void cover(const void* points, int64_t count);

    // The next `count` picks and the distance of each to its nearest centre before, infinite if there was none.
    void select(int64_t count, int64_t* picks, double* distances);

    double radius() const;  // of all points, the largest distance to the nearest centre
    int64_t reads() const;  // distances computed between a point and a centre

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace difal
