// Kernel values in float64, straight from the features: the judge of every near-tie.
#pragma once

#include <cstdint>
#include <vector>

namespace difal {

struct CoverageProblem;

class ExactKernel {
  public:
    explicit ExactKernel(const CoverageProblem& problem);

    // out[r] = k(x[row rows[r]], x[point])
    void against_point(int64_t point, const int32_t* rows, int64_t count, double* out) const;

    // out[c] = k(x[row], x[points[c]])
    void against_row(int64_t row, const int32_t* points, int64_t count, double* out) const;

    // out[r] = k(x[row rows[r]], y[index]), y contiguous, float64 if the features are that, else float32
    void against_other(const void* y, int64_t index, const int32_t* rows, int64_t count, double* out) const;

  private:
    void against(const void* y, double norm, const int32_t* feature_rows, int64_t count, double* out) const;
    int64_t feature_row(int64_t point) const;
    const int32_t* feature_rows(const int32_t* ids, int64_t count, const int64_t* of) const;
    double norm(const void* y) const;
    const void* row_at(int64_t feature_row, std::vector<float>& room) const;

    const CoverageProblem& p_;
    std::vector<double> norms_;  // of the rows of the features; cosine only
};

}  // namespace difal
