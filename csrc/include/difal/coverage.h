// Greedy coverage selection (MaxHerding) on a stored kernel matrix, exact.
//
// Gains are kept as estimates with proven bounds (ErrorModel in coverage_kernels.h) and updated, not
// recomputed: when a point is picked only the rows R whose coverage m_i rises change any gain, by
//     gain_j -= sum_{i in R} w_i (clip(k_ij, m_i, m_i') - m_i).
// At each pick the candidates whose upper bound reaches the best lower bound are settled in float64 from the
// features; the coverage m is float64 always. So the picks are those of float64 greedy.
#pragma once

#include <cstdint>
#include <memory>

#include "difal/coverage_kernels.h"
#include "difal/number_type.h"

namespace difal {

struct CoverageProblem {
    int64_t rows = 0;                     // N, points to cover
    int64_t columns = 0;                  // M, columns of the kernel matrix
    int64_t dimension = 0;                // D, 0 for a precomputed kernel
    NumberType type = NumberType::f32;    // of the features; of a precomputed kernel f32 or f64
    const void* features = nullptr;       // (points, D) contiguous; precomputed: the (N, N) kernel
    int64_t points = 0;                   // N, or more where only some of them are covered
    const int64_t* covered = nullptr;     // (N,) the points that are covered; null: row i is point i
    const int64_t* order = nullptr;       // (points,) where each point is in `features`, and what ties go by, if points
                                          // are in another order here; null: where it is. Not beside `covered`
    int64_t feature_stride = 0;           // elements from row to row
    const double* weights = nullptr;      // (N,)
    const int64_t* candidates = nullptr;  // (M,) pool index of each column; null: column j is point j
    const uint8_t* allowed = nullptr;     // (M,) may the column be picked; null: all
    KernelKind kind = KernelKind::rbf;
    double bandwidth = 1;
    ErrorModel error;
    const float* row_sq_norms = nullptr;  // (N,) the s_i of ErrorModel
    const float* sq_norms = nullptr;      // (points,) the same of all points
    void* matrix = nullptr;               // (N, M) kernel values
    int64_t matrix_stride = 0;            // elements from row to row
    bool is_short = false;                // they are uint16, steps of 1 / kSteps; else float32
    bool symmetric = true;                // column j is point j, M = N, and the matrix equals its transpose
    double first_gain = -1;  // of the selection that this goes on with, not divided by N; < 0: this is its start
};

struct CoverageStats {
    int64_t picks = 0;               // so far
    int64_t contested = 0;           // picks at which more than one candidate had to be settled in float64
    int64_t settled_candidates = 0;  // float64 gains computed in all
    int64_t rows_updated = 0;        // sum of |R| over the picks
};

// How many of rows x columns kernel values must be computed in float64, of which `products` holds the inner products;
// overwritten. Rows are contiguous, the scales those of ErrorModel.
int64_t count_uncertain(KernelKind kind, const ErrorModel& error, float* products, int64_t rows, int64_t columns,
                        const float* row_sq_norms, const float* column_sq_norms);

class StoredGreedy;

class DenseGreedy {
  public:
    DenseGreedy(const CoverageProblem& problem, int threads);
    ~DenseGreedy();

    // Fills matrix[row_begin:row_end, column_begin:column_end] from the inner products of those rows and columns,
    // `stride` apart and overwritten, and in a symmetric matrix mirrors what is left of the block's own diagonal
    // square. Different blocks may be filled at the same time.
    void fill(int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end, float* products,
              int64_t stride);

    // Makes a diagonal square symmetric to the last bit, which a product of a matrix with itself need not be: a gain is
    // first summed down a column and then lowered by rows, and an entry may be wrong in one way only.
    void mirror(int64_t begin, int64_t end);

    // Covers the pool with `count` labeled points; products is (count, N), overwritten. Before or after start.
    void cover(const void* labeled, int64_t count, float* products, int64_t stride, const float* sq_norms);

    // The same with given float64 coverage m (N,).
    void cover_with(const double* coverage);

    // First gains; after all fill and cover calls.
    void start();

    // The next `count` picks: columns of the kernel matrix, and gains not yet divided by N.
    void select(int64_t count, int64_t* picks, double* gains);

    double covered() const;  // sum_i w_i m_i
    CoverageStats stats() const;

  private:
    std::unique_ptr<StoredGreedy> state_;
};

}  // namespace difal
