// The greedy loop itself, whatever the kernel matrix is stored in. See csrc/include/difal/coverage.h for the idea and
// docs/exactness.md for the bounds.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "difal/coverage.h"
#include "difal/exact_kernel.h"
#include "difal/threads.h"

namespace difal {

// Per-thread buffers for one column of the matrix.
struct Scratch {
    std::vector<int32_t> rows, positions;
    std::vector<double> values, weights;
    std::vector<float> column, packed, covered, sq_norms;
    std::vector<uint16_t> entries;
    void reserve(int64_t n);
};

Scratch& scratch(int64_t n);

// Exact coverage and its rounding, which estimated gains are relative to: to float32, or to the steps of a 16-bit
// matrix. A row that is covered fully, by a function of distance, is rounded to infinity: no error bound may say that
// anything reaches above 1.
struct CoverageLevel {
    std::vector<double> exact;
    std::vector<float> rounded;
    double full;
    bool is_short;

    CoverageLevel(int64_t n, KernelKind kind, bool in_steps = false)
        : exact(n, 0.0),
          rounded(n, 0.0f),
          full(kind == KernelKind::precomputed || kind == KernelKind::cosine ? std::numeric_limits<double>::infinity()
                                                                             : 1.0),
          is_short(in_steps) {}
    void set(int64_t i, double value) {
        exact[i] = value;
        const float nearest = static_cast<float>(value);
        rounded[i] = value >= full ? std::numeric_limits<float>::infinity()
                     : is_short    ? entry_value(stored_entry(nearest))
                                   : nearest;
    }
};

// Inner products of row i with `width` points from `first` on, in place to kernel values: estimates, float64 where
// those are uncertain, and the diagonal exactly.
void fill_row(const CoverageProblem& p, const ExactKernel& exact, int64_t i, float* k, int64_t first, int64_t width,
              const float* sq_norms, Scratch& s);

// Raises `level` to the coverage of `count` labeled points; products is (count, N) inner products, overwritten.
void cover_by_labeled(const CoverageProblem& p, const ExactKernel& exact, ThreadPool& pool, CoverageLevel& level,
                      const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms);

class Greedy {
  public:
    Greedy(const CoverageProblem& problem, int threads);
    virtual ~Greedy() = default;

    // Raises `level` by way of change(level), before the start or after it.
    template <typename Change>
    void cover(Change&& change) {
        const CoverageLevel before = level;
        change(level);
        if (started_) after_rise(before);
    }

    // First estimates of all gains, after `count` columns were picked already.
    void start(const int64_t* picked = nullptr, int64_t count = 0);
    // Returns how many picks were made: fewer where the next one would gain no more than `least`, within a tie.
    int64_t select(int64_t count, int64_t* picks, double* gains,
                   double least = -std::numeric_limits<double>::infinity());
    // Forgets all gains, so that `start` can be called once more; coverage stays.
    void stop();
    double covered() const;

    CoverageProblem p;
    ExactKernel exact;
    ThreadPool pool;
    CoverageLevel level;
    CoverageStats stats;
    double first_gain;  // < 0: none yet

  protected:
    // What a matrix can be asked. Column j's estimate and bound:
    virtual void scan(int64_t j, Scratch& s, double* gain, double* bound) = 0;
    // The same for all columns in [begin, end) at once, into gains_ and bounds_, while nothing is covered; bounds may
    // be looser. False where that is no faster.
    virtual bool weigh(int64_t /*begin*/, int64_t /*end*/) { return false; }
    // Its rows that may still rise, ascending or not, into s.rows.
    virtual int64_t live_rows(int64_t j, Scratch& s) = 0;
    // Lower the estimates of all columns for the rows that rose, after reopening settled columns that they touch.
    virtual void raise(const std::vector<RowRise>& rises) = 0;

    int64_t point(int64_t column) const { return p.candidates ? p.candidates[column] : column; }
    int64_t place(int64_t column) const { return p.order ? p.order[column] : column; }  // what ties go by
    float sq_norm_of(int64_t column) const { return p.sq_norms[point(column)]; }
    // Could an entry with this estimate reach above m? Never says no wrongly, and costs no division.
    bool may_reach(float k, float m) const {
        return k + k * (2 * p.error.tolerance + p.error.relative) + p.error.absolute + 2 * p.error.quantization_err > m;
    }
    // What a scan charges a column for its own entry beyond rounding: nothing is estimated there.
    template <typename T>
    double self_bound(T k, float m, double weight, float sq_norms) const {
        double gain, charged, rounding;
        ErrorModel rounding_only = p.error;
        rounding_only.sq_dist_rel_err = 0;
        rounding_only.quantization_err /= 2;  // of m alone
        matrix_kernels<T>().scan(p.kind, p.error, &k, &m, &weight, 1, sq_norms, &sq_norms, &gain, &charged);
        matrix_kernels<T>().scan(p.kind, rounding_only, &k, &m, &weight, 1, sq_norms, &sq_norms, &gain, &rounding);
        return charged - rounding;
    }
    void reopen(int64_t j) {
        is_settled_[j] = 0;
        margin_[j] = bounds_[j];
    }

    const CoverageKernels& simd_ = coverage_kernels();
    std::vector<double> gains_;   // estimates; -inf once picked or where not allowed
    std::vector<double> bounds_;  // error bound of the estimate at its last scan; valid ever after
    std::vector<uint8_t> is_settled_;
    std::vector<int64_t> settled_;  // columns whose settled gain is still exact

  private:
    void after_rise(const CoverageLevel& before);
    void forget_unsettled();
    void rescan(int64_t j, Scratch& s);
    bool refine(int64_t j, double threshold);
    void settle(int64_t j, const int32_t* rows, const double* values, int64_t count);
    void make_column(int64_t j);
    void find_contenders(double reach, std::vector<int64_t>& found);
    bool rescan_old(const std::vector<int64_t>& contenders);
    int64_t choose();
    void take(int64_t j);
    double drift() const;
    double tie(double best) const;

    std::vector<double> margin_;        // gains + margin is an upper bound (plus drift)
    std::vector<double> settled_gain_;  // float64
    std::vector<int64_t> scanned_at_;   // number of picks made at the last scan
    std::vector<int64_t> reaching_;
    struct {  // the column that was made last, in float64, and after how many picks
        int64_t column = -1, picks = -1;
        std::vector<int32_t> rows;
        std::vector<double> values;
    } kept_;
    double largest_gain_ = 0;
    bool started_ = false;
};

}  // namespace difal
