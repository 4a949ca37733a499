#include "difal/projection.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "difal/isa.h"
#include "difal/threads.h"

namespace difal {
namespace {

const ProjectionKernels& kernels() {
    return *by_isa(&kProjectionGeneric, &kProjectionAvx2, &kProjectionAvx512);
}

ThreadPool pool_for(int64_t tasks, int threads) {
    return ThreadPool(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, tasks))));
}

// The four corners of one pixel in one map: cells in the order low-low, low-high, high-low, high-high.
struct Cell {
    int64_t at[4];
    double weight[4];
};

Cell cell_of(const Tap& y, const Tap& x, int64_t width) {
    return {
        {y.low * width + x.low, y.low * width + x.high, y.high * width + x.low, y.high * width + x.high},
        {(1 - y.weight) * (1 - x.weight), (1 - y.weight) * x.weight, y.weight * (1 - x.weight), y.weight * x.weight}};
}

// Squared norm of the mix, and the mean of the corners' own (never less, by convexity). A missing neighbour
// has weight 0 and a Gram entry of 0.
void add_norms(const ProjectedMap& map, const Cell& cell, double* norm, double* mean) {
    const int64_t cells = map.height * map.width;
    const double* self = map.gram;
    const double* right = self + cells;
    const double* down = right + cells;
    const double* diagonal = down + cells;
    const double* anti = diagonal + cells;
    const auto& [at, w] = cell;
    const double a = self[at[0]], b = self[at[1]], c = self[at[2]], d = self[at[3]];
    const double squares = w[0] * w[0] * a + w[1] * w[1] * b + w[2] * w[2] * c + w[3] * w[3] * d;
    const double across = w[0] * w[1] * right[at[0]] + w[2] * w[3] * right[at[2]] + w[0] * w[2] * down[at[0]] +
                          w[1] * w[3] * down[at[1]] + w[0] * w[3] * diagonal[at[0]] + w[1] * w[2] * anti[at[0]];
    *norm += squares + 2 * across;
    *mean += w[0] * a + w[1] * b + w[2] * c + w[3] * d;
}

}  // namespace

void gram_maps(const FeatureMap& map, int64_t image, bool self_only, double* gram, int threads) {
    const int64_t maps = self_only ? 1 : kGramMaps;
    const int64_t rows = std::max<int64_t>(1, 512 / map.width);  // per task
    const int64_t tasks = (map.height + rows - 1) / rows;
    pool_for(tasks, threads).parallel_for(tasks, [&](int64_t task) {
        const int64_t begin = task * rows, end = std::min(map.height, begin + rows);
        const int64_t cells = (end - begin) * map.width;
        std::vector<double> sums(maps * cells);
        kernels().gram_rows(map, image, begin, end, self_only, sums.data());
        for (int64_t k = 0; k < maps; ++k) {
            std::copy_n(&sums[k * cells], cells, gram + (k * map.height + begin) * map.width);
        }
    });
}

void resize_projected(const ResizeJob& job, int threads) {
    const ProjectionKernels& kernel = kernels();
    const int64_t pixel_bytes = job.channels * (job.wide ? 8 : 4);
    const int64_t rows = job.row_end - job.row_begin;
    std::vector<std::vector<Tap>> columns(job.map_count);
    for (int64_t m = 0; m < job.map_count; ++m) {
        for (int64_t x = 0; x < job.width; ++x) {
            columns[m].push_back(bilinear_tap(x, job.maps[m].width, job.width));
        }
    }
    pool_for(rows, threads).parallel_for(rows, [&](int64_t row) {
        char* out = static_cast<char*>(job.out) + row * job.width * pixel_bytes;
        double* norms = job.norms + row * job.width;
        std::vector<Tap> lines;
        for (int64_t m = 0; m < job.map_count; ++m) {
            lines.push_back(bilinear_tap(job.row_begin + row, job.maps[m].height, job.height));
        }
        for (int64_t x = 0; x < job.width; ++x, out += pixel_bytes) {
            double norm = norms[x], mean = norms[x];
            for (int64_t m = 0; m < job.map_count; ++m) {
                const ProjectedMap& map = job.maps[m];
                const Cell cell = cell_of(lines[m], columns[m][x], map.width);
                const char* values = static_cast<const char*>(map.values);
                const void* corners[4];
                for (int k = 0; k < 4; ++k) corners[k] = values + cell.at[k] * pixel_bytes;
                kernel.add_corners(job.wide, corners, cell.weight, job.channels, out);
                if (job.normalize) add_norms(map, cell, &norm, &mean);
            }
            const bool scaled = job.normalize && norm > 0;
            kernel.scale_add(job.wide, scaled ? 1 / std::sqrt(norm) : 1.0, job.bias, job.channels, out);
            norms[x] = job.normalize && norm < kCancelled * mean ? -1.0 : norm;
        }
    });
}

}  // namespace difal
