// Coverage selection on a GPU: what Python hands over, and the launchers. Addresses are device memory, sizes and
// strides count elements. Launchers allocate nothing and do not wait: work goes to the queue.
#pragma once

#include <cstdint>
#include <string>

#include "difal/coverage_kernels.h"
#include "difal/cuda_queue.h"
#include "difal/hypercolumns.h"  // Float

namespace difal {
namespace cuda {

// The features as given, and the kernel on them in float64.
struct Points {
    const void* data;     // (N, D) rows; precomputed: the (N, N) kernel
    int64_t stride;       // from row to row
    int64_t dimension;    // D
    const double* norms;  // (N,), cosine only
    double bandwidth;
    Float type;
    KernelKind kind;
};

// How wrong estimated kernel values are.
struct Estimate {
    ErrorModel error;
    const float* sq_norms;  // (N,) the s_i of ErrorModel
};

// A row whose coverage rose, as rounded.
struct Rise {
    int64_t row;
    float low, high;
};

// What some warps of a block report of their columns (see greedy.cu).
struct BlockReport {
    double settled, lower, upper;
    int64_t winner, proposal;
};

struct Control {
    int64_t picks, contested;
    int64_t rounds, settled_candidates;         // looks at all columns; columns settled
    unsigned long long float64_rows;            // kernel values computed in float64
    int64_t barriers, rows_updated;             // barriers that a block waited at; rows whose coverage rose
    int64_t blocks;                             // of the group
    unsigned long long largest, largest_bound;  // bits of the largest first estimate, and of the largest first bound
    double first_gain, magic, bound_magic, bound_scale;
    unsigned long long rises[2];
};

// One selection. All arrays outlive the selection; `rows` and `columns` are N and M.
struct CoverageTask {
    Points points;
    Estimate estimate;
    int64_t rows, columns;
    const double* weights;      // (N,)
    const int64_t* candidates;  // (M,) pool index of each column; null: column j is point j
    const uint8_t* allowed;     // (M,) may it be picked; null: all
    bool symmetric;             // column j is point j, and the matrix equals its transpose

    const float* gram;  // dense: (N, M) kernel values
    int64_t gram_stride;

    const int64_t* list_begin;  // sparse: (N,) where the live entries of each point start
    int32_t* list_length;       // (N,)
    int32_t* list_point;
    float* list_value;

    double* exact;         // (N,) coverage m, set before coverage_start
    float* rounded;        // (N,) m as float32
    double* gains;         // (M,) from here on: workspace
    double* bounds;        // (M,)
    double* settled;       // (M,)
    double* offset;        // (M,) the settled gain less the estimate of then
    double* touched;       // (M,) how far the estimate may have moved from that since
    uint8_t* flag;         // (M,)
    Rise* rises;           // (N,)
    double* partial;       // kContenders x segments
    double* kept;          // (kKept, N) float64 values of columns settled in this pick, by entry
    BlockReport* reports;  // kMaxGroup
    int64_t* winners;      // kMaxGroup
    Control* control;

    int64_t* picks;  // (budget,) columns
    double* pick_gains;
    int64_t budget;
};

constexpr int kMaxGroup = 512;   // most blocks that work on one selection
constexpr int kContenders = 32;  // most settled between two looks at the best
constexpr int kKept = 8;         // of these, most whose float64 values are kept for the pick that follows
constexpr int kSegment = 8;      // entries of a column that a warp settles together

// Why the kernels cannot run on a device (its driver, or what they were built for), or nothing.
std::string why_not(int device);

// The gains of the first step. `sparse`: all tasks are lists, else all are matrices. first_gain < 0: none yet.
void coverage_start(Queue queue, const CoverageTask* tasks, int count, int64_t most_columns, bool sparse,
                    double first_gain);

// Up to `picks` more picks of each task, in one launch. `arrivals`: one zeroed number per task.
void coverage_select(Queue queue, const CoverageTask* tasks, int count, int64_t most_columns, bool sparse,
                     unsigned* arrivals, int64_t picks, int threads);

// Raises m of rows [row_begin, row_end) to what `count` other points give: values is (rows, count), kernel values or
// kUncertain, `others` their features, type, dimension and stride as the points'; scales and norms as the points'.
struct Cover {
    const float* values;
    int64_t stride, row_begin, row_end, count;
    const void* others;
    const float* sq_norms;
    const double* norms;
    double* exact;
    float* rounded;
};
void coverage_cover(Queue queue, const Points& points, const Estimate& estimate, const Cover& cover);

// One tile of the kernel matrix, without the matrix: rows [row_begin, row_end) and columns [column_begin, column_end),
// on and left of the diagonal. tile[0] is entry (row_begin, column_begin).
struct Tile {
    const float* tile;
    int64_t stride;
    int64_t row_begin, row_end, column_begin, column_end;
};

// What the rows take from the candidates at each step: row i has events [event_begin[i], event_begin[i + 1]), each a
// step at which its coverage rises from low to high. taken and alive are (steps, N); see csrc/include/difal/sweep.h.
struct Sums {
    const int64_t* event_begin;
    const int32_t* event_step;
    const float *event_low, *event_high;
    const double* weights;
    double *taken, *alive;
    int64_t points, steps;
    double magic;  // rounds to multiples of a power of two of which the weights' sum has at most 2^51
    ErrorModel error;
};
void coverage_take(Queue queue, const Tile& tile, const Sums& sums);

// Entries that row or column can still use, given the coverage `floor`: counted in `length`, and if `point` is given
// also written, each list at `begin`, in an order that does not vary. A list has room up to where the next begins;
// `length` counts what had none, too.
struct Lists {
    const float* floor;
    const uint8_t* allowed;  // null: all
    const int64_t* begin;    // (N + 1,)
    int32_t* length;
    int32_t* point;
    float* value;
};
void coverage_gather(Queue queue, const Points& points, const Estimate& estimate, const Tile& tile, const Lists& lists);

// Column `point` against the coverage (exact, rounded), from its estimated kernel values. Per segment of kSegment rows:
// the estimated gain and its bound, or, if `new_exact` is given, the float64 gain and the coverage with the
// point.
struct Column {
    const float* values;
    int64_t rows, point;
    const double *weights, *exact;
    const float* rounded;
    double *new_exact, *gain, *bound;
    float* new_rounded;
};
void coverage_column(Queue queue, const Points& points, const Estimate& estimate, const Column& column);

// |x_i| in float64 of `rows` contiguous rows.
void coverage_norms(Queue queue, const Points& points, int64_t rows, double* norms);

}  // namespace cuda
}  // namespace difal
