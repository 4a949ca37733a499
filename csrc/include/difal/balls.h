// Greedy max coverage by balls (ProbCover): a pick covers every point within the radius. Exact, and without an N x N
// matrix.
//
// Gains are integers: how many uncovered points lie within the radius. One sweep over the tiles of the half matrix
// counts them and gathers the pairs within the radius. Where those are too many, the picks go on without them: the
// points that a pick newly covers are compared with all others and taken off the counts. Every point is newly covered
// once at most, so this costs no more than one full pass whatever the budget. As soon as the pairs that are left fit,
// a second sweep gathers them.
#pragma once

#include <cstdint>
#include <memory>

#include "difal/coverage.h"

namespace difal {

class Balls {
  public:
    // `problem.kind` is tophat; columns are the N points, restricted by `allowed`; weights and gram are not used.
    Balls(const CoverageProblem& problem, int threads);
    ~Balls();

    // As DenseGreedy::cover; before the first sweep.
    void cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms);

    // Starts a sweep that gathers at most `capacity` pairs, and counts if it is the first.
    void begin(int64_t capacity);
    // The tile of rows [row_begin, row_end) and columns [column_begin, column_end), none right of the diagonal square.
    // `tile` holds the inner products, contiguous, overwritten.
    void tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile);
    // Ends the sweep. Whether all pairs were gathered.
    bool end();

    // No fewer than the pairs of which one point is not covered yet.
    int64_t pairs() const;

    // One pick without the pairs. best() is the candidate; take() covers what `products` (N,), its inner products with
    // all points, say, and writes the newly covered points; lower() takes some of those off the counts of
    // [column_begin, column_end), given their inner products (count, column_end - column_begin), overwritten.
    int64_t best(double* gain);
    int64_t take(int64_t j, float* products, int64_t* newly);
    void lower(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end, float* products);

    // The next `count` picks, after end() said true.
    void select(int64_t count, int64_t* picks, double* gains);

    int64_t covered() const;  // points

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace difal
