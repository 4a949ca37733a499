// Exact coverage selection without the kernel matrix.
//
// m only grows, so an entry k_ij <= m_i is dead for ever, and after some tens of picks few entries are alive. The first
// picks are *guessed* (anyone may guess; the caller does, from a sample of rows). One sweep over the tiles of the
// half matrix then computes every candidate's gain at every one of the guessed steps at once:
//     gain_j(t) = sum_i w_i max(k_ij - m_i(last), 0) + sum over later steps s of what step s took from it,
// where a row takes part only in the steps that raise it, about ln(t) of t. Steps whose guess is not beaten by any
// upper bound are thereby proven. Where one is beaten, the right pick takes its place: that changes the coverage of the
// few rows near the two, and what those took is taken back and taken anew. The same sweep gathers the entries still
// alive, and the rest is greedy on those.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "difal/coverage.h"

namespace difal {

class TiledGreedy {
  public:
    // `problem.gram` is not used. Matrices are symmetric: columns are the N points, restricted by `allowed`.
    TiledGreedy(const CoverageProblem& problem, int threads);
    ~TiledGreedy();

    // As DenseGreedy::cover; before the first guess or after start.
    void cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms);

    // The next guess: point j. `products` (N,) are its inner products, overwritten. Returns its float64 gain.
    double guess(int64_t j, float* products);
    // Forgets all guesses but the first `count`.
    void keep(int64_t count);
    int64_t guesses() const;

    // Coverage after `count` guesses (0: labeled points alone), (N,) float64.
    const double* coverage(int64_t count) const;

    // What the guess at step t gains, in float64.
    double gain(int64_t t) const;

    // Starts a sweep over steps `first`..guesses(), in tiles of at most `block` points a side. With `entries` > 0 it
    // also gathers what is alive after `alive_at` guesses, at most about that many entries (of 8 bytes); with `wanted`,
    // (N,) flags, what these candidates may use of it. Without a guess from `first` on that is all it does.
    void begin(int64_t first, int64_t alive_at, int64_t entries, int64_t block, const uint8_t* wanted = nullptr);
    // The tile of rows [row_begin, row_end) and columns [column_begin, column_end), two blocks or one block twice; any
    // pair of blocks once at most. Of two blocks it may be a part, where no entry of the rest is above any coverage
    // that counts. `tile` holds the inner products, rows `stride` apart (readable for a multiple of 32 columns),
    // overwritten; `transposed` has room for their transpose. Both lie in a matrix of a whole tile, where that part
    // would be. Tiles that share no block may be given at the same time; the order in which a block's tiles come
    // decides the last bits of the sums and the order of what is alive.
    void tile(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* tile,
              float* transposed, int64_t stride);
    // Whether all that is alive was kept; false if it was too much.
    bool gathered() const;

    // Estimated gains at step t, first <= t <= guesses(), and the weight of the rows that each candidate can still
    // raise; both (N,) float64. Times the largest error of one entry (and of 20 roundings to float32) that weight
    // bounds the error of the gain.
    void gains(int64_t t, double* out, double* alive) const;

    // The guesses from step t on are these `count` points instead, as many as there were: a new one at step t, those of
    // steps t..t + moved - 2 one step later, the rest as they were. `products` (N,) are those of the new one,
    // overwritten. Returns how many rows' coverage changes; what each step takes is wrong until
    // `retake` has been called for all batches of kBatch changed rows and all columns.
    static constexpr int64_t kBatch = 256;
    int64_t replace(int64_t t, const int64_t* points, int64_t count, int64_t moved, float* products);
    void changed_rows(int64_t* rows) const;
    // `tile` holds the inner products of a batch with the columns, as for `tile`. Columns may be left out that no entry
    // of these rows is above the coverage at step t for. Calls for other columns may run at the same time.
    void retake(int64_t batch, int64_t column_begin, int64_t column_end, float* tile, int64_t stride);

    // Lets go of the sums of the last sweep, and of coverage before that many guesses.
    void forget(int64_t before);

    // Lets go of the guesses after the first so many, and of what was gathered for what they leave alive.
    void drop(int64_t guesses);

    // Drops the entries of all rows whose coverage at `alive_at` is lower now than when they were gathered, and writes
    // those rows, (N,) at most; returns how many. They are gathered again by `gather_again` over all columns, once with
    // `own` false, at the same time for different columns, and once with `own` true, at the same time for different
    // rows.
    int64_t forget_lower(int64_t* rows);
    void gather_again(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end, float* tile,
                      int64_t stride, bool own);

    // For guessing. Inner products of some points with columns in place to kernel values;
    void kernel_rows(const int64_t* rows, int64_t count, int64_t column_begin, int64_t column_end, float* products,
                     int64_t stride) const;
    // gains[c] += what candidate points[c] would gain at step t from rows [row_begin, row_end), estimated.
    void add_gains(int64_t t, const int64_t* points, int64_t count, int64_t row_begin, int64_t row_end, float* products,
                   int64_t stride, double* gains) const;

    // taken[j] += what these rows take from candidate j when they rise from `low` to `high`, estimated.
    void add_taken(const int64_t* rows, const float* low, const float* high, const double* weights, int64_t count,
                   int64_t column_begin, int64_t column_end, float* products, int64_t stride, double* taken) const;

    // Certainty for one candidate j at step t, whose kernel column is made from `products` (overwritten by the first
    // call with `fresh`). Returns its float64 gain if an upper bound reaches `threshold`, else -1.
    double settle(int64_t j, float* products, bool fresh, int64_t t, double threshold);

    // Greedy on what was gathered, from `alive_at` picks on, which are `picked` (alive_at,); all sums are let go.
    void start(double first_gain, const int64_t* picked);
    // Returns how many picks were made: fewer where the next one would gain no more than `least`, within a tie.
    int64_t select(int64_t count, int64_t* picks, double* gains,
                   double least = -std::numeric_limits<double>::infinity());
    // Back to before a sweep, after so many picks in all: lets what was gathered go.
    void resume(int64_t picks);
    double covered() const;
    CoverageStats stats() const;
    int64_t entries() const;  // alive at the start

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace difal
