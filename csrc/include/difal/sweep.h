// Exact coverage selection without the kernel matrix.
//
// m only grows, so an entry k_ij <= m_i is dead for ever, and after some tens of picks few entries are alive. The first
// picks are *guessed* (anyone may guess; the caller does, from a sample of rows). One sweep over the tiles of the
// half matrix then computes every candidate's gain at every one of the guessed steps at once:
//     gain_j(t) = sum_i w_i max(k_ij - m_i(last), 0) + sum over later steps s of what step s took from it,
// where a row takes part only in the steps that raise it, about ln(t) of t. Steps whose guess is not beaten by any
// upper bound are thereby proven; the same sweep gathers the entries still alive, and the rest is greedy on those.
#pragma once

#include <cstdint>
#include <memory>

#include "difal/coverage.h"

namespace difal {

class Sweep {
  public:
    // `problem.gram` is not used. Matrices are symmetric: columns are the N points, restricted by `allowed`.
    Sweep(const CoverageProblem& problem, int threads);
    ~Sweep();

    // As Coverage::cover; before the first guess.
    void cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* scale);

    // The next guess: point j. `products` (N,) are its inner products, overwritten. Returns its float64 gain.
    double guess(int64_t j, float* products);
    // Forgets all guesses but the first `count`.
    void keep(int64_t count);
    int64_t guesses() const;

    // Coverage after `count` guesses (0: labeled points alone), (N,) float64.
    const double* coverage(int64_t count) const;

    // Starts a sweep over steps `first`..guesses(). With `entries` > 0 it also gathers what is alive after `alive_at`
    // guesses, at most about that many entries (of 8 bytes).
    void begin(int64_t first, int64_t alive_at, int64_t entries);
    // The tile of rows [row_begin, row_end) and columns [column_begin, column_end) <= row_begin, or the diagonal square
    // itself. `tile` holds the inner products, contiguous, overwritten; `turned` is as large.
    void tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile, float* turned);
    // Whether all that is alive was kept; false if it was too much.
    bool gathered() const;

    // Estimated gains at step t, first <= t <= guesses(), and the weight of the rows that each candidate can still
    // raise; both (N,) float64. Times the largest error of one entry that weight bounds the error of the gain.
    void gains(int64_t t, double* out, double* alive) const;

    // Certainty for one candidate j at step t, whose kernel column is made from `products` (overwritten by the first
    // call with `fresh`). Returns its float64 gain if an upper bound reaches `threshold`, else -1.
    double settle(int64_t j, float* products, bool fresh, int64_t t, double threshold);

    // Greedy on what was gathered, from `alive_at` picks on, which are `picked` (alive_at,); all sums are let go.
    void start(double first_gain, const int64_t* picked);
    void select(int64_t count, int64_t* picks, double* gains);
    double covered() const;
    CoverageStats stats() const;
    int64_t entries() const;  // alive at the start

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace difal
