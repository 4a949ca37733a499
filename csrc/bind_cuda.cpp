// The GPU module `difal_kernels._cuda`; see bind.h. Work goes to (device, stream), and nothing here waits for the GPU.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "bind_maps.h"
#include "difal/cuda_coverage.h"
#include "difal/cuda_maps.h"

namespace {

using difal::address;
using difal::Map;
using difal::cuda::CoverageTask;
using difal::cuda::Queue;
using At = std::tuple<int, std::uintptr_t>;  // device, stream

Queue queue(const At& at) {
    return {std::get<0>(at), std::get<1>(at)};
}

template <typename T>
T* pointer(const py::kwargs& from, const char* name) {
    return from.contains(name) ? address<T>(from[name].cast<std::uintptr_t>()) : nullptr;
}

difal::cuda::Points points_of(const py::kwargs& from) {
    return {pointer<const void>(from, "features"),
            from["feature_stride"].cast<int64_t>(),
            from["dimension"].cast<int64_t>(),
            pointer<const double>(from, "norms"),
            from["bandwidth"].cast<double>(),
            static_cast<difal::Float>(from["type"].cast<int>()),
            static_cast<difal::KernelKind>(from["kind"].cast<int>())};
}

difal::cuda::Estimate estimate_of(const py::kwargs& from) {
    difal::cuda::Estimate e;
    e.error.sq_dist_rel_err = from["sq_dist_rel_err"].cast<float>();
    e.error.tolerance = from["tolerance"].cast<float>();
    e.error.relative = from["relative"].cast<float>();
    e.error.absolute = from["absolute"].cast<float>();
    e.sq_norms = pointer<const float>(from, "sq_norms");
    return e;
}

// A CoverageTask as bytes, to be copied to the device.
py::bytes coverage_task(const py::kwargs& from) {
    CoverageTask t = {};
    t.points = points_of(from);
    t.estimate = estimate_of(from);
    t.rows = from["rows"].cast<int64_t>();
    t.columns = from["columns"].cast<int64_t>();
    t.weights = pointer<const double>(from, "weights");
    t.candidates = pointer<const int64_t>(from, "candidates");
    t.allowed = pointer<const uint8_t>(from, "allowed");
    t.symmetric = from["symmetric"].cast<bool>();
    t.gram = pointer<const float>(from, "gram");
    t.gram_stride = from["gram_stride"].cast<int64_t>();
    t.list_begin = pointer<const int64_t>(from, "list_begin");
    t.list_length = pointer<int32_t>(from, "list_length");
    t.list_point = pointer<int32_t>(from, "list_point");
    t.list_value = pointer<float>(from, "list_value");
    t.exact = pointer<double>(from, "exact");
    t.rounded = pointer<float>(from, "rounded");
    t.gains = pointer<double>(from, "gains");
    t.bounds = pointer<double>(from, "bounds");
    t.settled = pointer<double>(from, "settled");
    t.offset = pointer<double>(from, "offset");
    t.touched = pointer<double>(from, "touched");
    t.flag = pointer<uint8_t>(from, "flag");
    t.rises = pointer<difal::cuda::Rise>(from, "rises");
    t.partial = pointer<double>(from, "partial");
    t.kept = pointer<double>(from, "kept");
    t.reports = pointer<difal::cuda::BlockReport>(from, "reports");
    t.winners = pointer<int64_t>(from, "winners");
    t.control = pointer<difal::cuda::Control>(from, "control");
    t.picks = pointer<int64_t>(from, "picks");
    t.pick_gains = pointer<double>(from, "pick_gains");
    t.budget = from["budget"].cast<int64_t>();
    return py::bytes(reinterpret_cast<const char*>(&t), sizeof t);
}

// address, stride, rows and columns [begin, end)
using TileAt = std::tuple<std::uintptr_t, int64_t, std::array<int64_t, 4>>;

difal::cuda::Tile tile_of(const TileAt& from) {
    const auto& [data, stride, range] = from;
    return {address<const float>(data), stride, range[0], range[1], range[2], range[3]};
}

// The passes over tiles and single columns, by keyword like coverage_task.
void bind_sweep(py::module_& m) {
    m.def("coverage_take", [](At at, const TileAt& tile, const py::kwargs& from) {
        difal::cuda::Sums sums = {};
        sums.event_begin = pointer<const int64_t>(from, "event_begin");
        sums.event_step = pointer<const int32_t>(from, "event_step");
        sums.event_low = pointer<const float>(from, "event_low");
        sums.event_high = pointer<const float>(from, "event_high");
        sums.weights = pointer<const double>(from, "weights");
        sums.taken = pointer<double>(from, "taken");
        sums.alive = pointer<double>(from, "alive");
        sums.points = from["points"].cast<int64_t>();
        sums.steps = from["steps"].cast<int64_t>();
        sums.magic = from["magic"].cast<double>();
        sums.error = estimate_of(from).error;
        difal::cuda::coverage_take(queue(at), tile_of(tile), sums);
    });
    m.def("coverage_gather", [](At at, const TileAt& tile, const py::kwargs& from) {
        difal::cuda::Lists lists = {};
        lists.floor = pointer<const float>(from, "floor");
        lists.allowed = pointer<const uint8_t>(from, "allowed");
        lists.begin = pointer<const int64_t>(from, "list_begin");
        lists.length = pointer<int32_t>(from, "list_length");
        lists.point = pointer<int32_t>(from, "list_point");
        lists.value = pointer<float>(from, "list_value");
        difal::cuda::coverage_gather(queue(at), points_of(from), estimate_of(from), tile_of(tile), lists);
    });
    m.def("coverage_column", [](At at, int64_t rows, int64_t point, const py::kwargs& from) {
        difal::cuda::Column column = {};
        column.values = pointer<const float>(from, "values");
        column.rows = rows;
        column.point = point;
        column.weights = pointer<const double>(from, "weights");
        column.exact = pointer<const double>(from, "exact");
        column.rounded = pointer<const float>(from, "rounded");
        column.new_exact = pointer<double>(from, "new_exact");
        column.new_rounded = pointer<float>(from, "new_rounded");
        column.gain = pointer<double>(from, "gain");
        column.bound = pointer<double>(from, "bound");
        difal::cuda::coverage_column(queue(at), points_of(from), estimate_of(from), column);
    });
}

void bind_coverage(py::module_& m) {
    m.def("why_not", static_cast<std::string (*)(int)>(&difal::cuda::why_not));
    m.def("coverage_task", &coverage_task);
    m.attr("REPORT_BYTES") = sizeof(difal::cuda::BlockReport) * difal::cuda::kMaxGroup;
    m.attr("WINNERS") = difal::cuda::kMaxGroup;
    m.attr("RISE_BYTES") = sizeof(difal::cuda::Rise);
    m.attr("CONTROL_BYTES") = sizeof(difal::cuda::Control);
    m.attr("CONTENDERS") = difal::cuda::kContenders;
    m.attr("KEPT") = difal::cuda::kKept;
    m.attr("SEGMENT") = difal::cuda::kSegment;
    m.def("coverage_start",
          [](At at, std::uintptr_t tasks, int count, int64_t most_columns, bool sparse, double first_gain) {
              difal::cuda::coverage_start(queue(at), address<const CoverageTask>(tasks), count, most_columns, sparse,
                                          first_gain);
          });
    m.def("coverage_select", [](At at, std::uintptr_t tasks, int count, int64_t most_columns, bool sparse,
                                std::uintptr_t arrivals, int64_t picks, int threads) {
        py::gil_scoped_release release;
        difal::cuda::coverage_select(queue(at), address<const CoverageTask>(tasks), count, most_columns, sparse,
                                     address<unsigned>(arrivals), picks, threads);
    });
    m.def("coverage_cover", [](At at, std::uintptr_t values, int64_t stride, int64_t row_begin, int64_t row_end,
                               int64_t count, std::uintptr_t others, std::uintptr_t sq_norms, std::uintptr_t norms,
                               std::uintptr_t exact, std::uintptr_t rounded, const py::kwargs& how) {
        const difal::cuda::Cover cover{address<const float>(values),
                                       stride,
                                       row_begin,
                                       row_end,
                                       count,
                                       address<const void>(others),
                                       address<const float>(sq_norms),
                                       address<const double>(norms),
                                       address<double>(exact),
                                       address<float>(rounded)};
        difal::cuda::coverage_cover(queue(at), points_of(how), estimate_of(how), cover);
    });
    m.def("coverage_norms", [](At at, int64_t rows, std::uintptr_t norms, const py::kwargs& how) {
        difal::cuda::coverage_norms(queue(at), points_of(how), rows, address<double>(norms));
    });
}

void hypercolumns(At at, const std::vector<Map>& maps, int64_t height, int64_t width, std::uintptr_t points,
                  std::uintptr_t image, int64_t count, bool normalize, int out_type, std::uintptr_t out,
                  std::uintptr_t squared_norms) {
    std::vector<difal::FeatureMap> views;
    const difal::HypercolumnJob job = difal::hypercolumn_job(views, maps, height, width, points, image, count,
                                                             normalize, out_type, out, squared_norms);
    py::gil_scoped_release release;
    difal::cuda::hypercolumns(queue(at), job);
}

void disagreement(At at, const py::tuple& samples, const py::tuple& single, int input, bool check_finite, double weight,
                  int64_t num_samples, int64_t num_classes, const std::vector<int64_t>& position_sizes,
                  const std::array<std::uintptr_t, difal::gpu_score_count>& scores, double entropy_limit,
                  double bald_limit, std::uintptr_t first_bad) {
    difal::DisagreementJob job =
        difal::disagreement_job(samples, single, input, check_finite, weight, num_samples, num_classes, position_sizes);
    for (int i = 0; i < difal::gpu_score_count; ++i) job.scores[i] = address<float>(scores[i]);
    py::gil_scoped_release release;
    difal::cuda::disagreement(queue(at), job, {entropy_limit, bald_limit}, address<unsigned long long>(first_bad));
}

void bind_maps(py::module_& m) {
    m.def("hypercolumns", &hypercolumns);
    m.attr("MAX_MAPS") = difal::cuda::kMaxMaps;
    m.def("disagreement", &disagreement);
    m.def("disagreement_fits", &difal::cuda::disagreement_fits);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "Native GPU kernels of difal_kernels; use the functions of difal_kernels instead.";
#if defined(DIFAL_EMULATED)
    m.attr("DEVICE") = "cpu";  // every thread a fibre: see tests/gpu/emulator
    m.attr("THREADS") = 64;
#else
    m.attr("DEVICE") = "cuda";
    m.attr("THREADS") = 384;
#endif
    bind_coverage(m);
    bind_sweep(m);
    bind_maps(m);
}
