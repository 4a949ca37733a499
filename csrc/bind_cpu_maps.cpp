// The part of `difal_kernels._cpu` about maps: disagreement, hypercolumns and projections; see bind.h.
#include <cstdint>
#include <tuple>
#include <vector>

#include "bind_maps.h"
#include "difal/projection.h"

namespace {

using difal::address;
using difal::Map;

void hypercolumns(const std::vector<Map>& maps, int64_t height, int64_t width, std::uintptr_t points,
                  std::uintptr_t image, int64_t count, bool normalize, int out_type, std::uintptr_t out,
                  std::uintptr_t squared_norms, int threads) {
    std::vector<difal::FeatureMap> views;
    const difal::HypercolumnJob job = difal::hypercolumn_job(views, maps, height, width, points, image, count,
                                                             normalize, out_type, out, squared_norms);
    py::gil_scoped_release release;
    difal::hypercolumns(job, threads);
}

void gram_maps(const Map& map, int64_t image, bool self_only, std::uintptr_t gram, int threads) {
    const difal::FeatureMap view = difal::feature_map(map);
    py::gil_scoped_release release;
    difal::gram_maps(view, image, self_only, address<double>(gram), threads);
}

// Each of `maps`: address of the values, address of the Gram maps, H, W.
void resize_projected(const std::vector<std::tuple<std::uintptr_t, std::uintptr_t, int64_t, int64_t>>& maps,
                      int64_t height, int64_t width, int64_t row_begin, int64_t row_end, int64_t channels, bool wide,
                      bool normalize, std::uintptr_t bias, std::uintptr_t out, std::uintptr_t norms, int threads) {
    std::vector<difal::ProjectedMap> views;
    for (const auto& [values, gram, h, w] : maps) {
        views.push_back({address<const void>(values), address<const double>(gram), h, w});
    }
    const difal::ResizeJob job{views.data(),
                               static_cast<int64_t>(views.size()),
                               height,
                               width,
                               row_begin,
                               row_end,
                               channels,
                               wide,
                               normalize,
                               address<const void>(bias),
                               address<void>(out),
                               address<double>(norms)};
    py::gil_scoped_release release;
    difal::resize_projected(job, threads);
}

int64_t disagreement(const py::tuple& samples, const py::tuple& single, int input, bool check_finite, double weight,
                     int64_t num_samples, int64_t num_classes, const std::vector<int64_t>& position_sizes,
                     const py::tuple& scores, int threads) {
    difal::DisagreementJob job =
        difal::disagreement_job(samples, single, input, check_finite, weight, num_samples, num_classes, position_sizes);
    for (int i = 0; i < difal::score_count; ++i) {
        job.scores[i] = address<float>(scores[i].cast<std::uintptr_t>());
    }
    py::gil_scoped_release release;
    return difal::disagreement(job, threads);
}

}  // namespace

void bind_cpu_maps(py::module_& m) {
    m.def("disagreement", &disagreement, "Fills the wanted scores; the first invalid position, or -1.");
    m.def("hypercolumns", &hypercolumns);
    m.def("gram_maps", &gram_maps);
    m.def("resize_projected", &resize_projected);
}
