// The GPU module `difal_kernels._cuda`. Tensors arrive as addresses (`tensor.data_ptr()`), sizes and strides in
// elements, and work goes to (device, stream); Python has checked and allocated everything. Nothing here waits for
// the GPU.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "platform.h"
#include "difal/cuda_coverage.h"

namespace py = pybind11;

namespace {

using difal::cuda::CoverageTask;
using difal::cuda::Queue;
using At = std::tuple<int, std::uintptr_t>;  // device, stream

template <typename T>
T* address(std::uintptr_t value) {
    return reinterpret_cast<T*>(value);
}

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
    e.error.lambda = from["lambda_"].cast<float>();
    e.error.tolerance = from["tolerance"].cast<float>();
    e.error.relative = from["relative"].cast<float>();
    e.error.absolute = from["absolute"].cast<float>();
    e.product = from["product"].cast<float>();
    e.scale = pointer<const float>(from, "scale");
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
    t.scanned = pointer<int32_t>(from, "scanned");
    t.flag = pointer<uint8_t>(from, "flag");
    t.rises = pointer<difal::cuda::Rise>(from, "rises");
    t.partial = pointer<double>(from, "partial");
    t.said = pointer<difal::cuda::Said>(from, "said");
    t.winners = pointer<int64_t>(from, "winners");
    t.control = pointer<difal::cuda::Control>(from, "control");
    t.picks = pointer<int64_t>(from, "picks");
    t.pick_gains = pointer<double>(from, "pick_gains");
    t.budget = from["budget"].cast<int64_t>();
    return py::bytes(reinterpret_cast<const char*>(&t), sizeof t);
}

void bind_coverage(py::module_& m) {
    m.def("coverage_task", &coverage_task);
    m.attr("SAID_BYTES") = sizeof(difal::cuda::Said) * difal::cuda::kTeam;
    m.attr("WINNERS") = difal::cuda::kTeam;
    m.attr("RISE_BYTES") = sizeof(difal::cuda::Rise);
    m.attr("CONTROL_BYTES") = sizeof(difal::cuda::Control);
    m.attr("CONTENDERS") = difal::cuda::kContenders;
    m.attr("SEGMENT") = difal::cuda::kSegment;
    m.def("coverage_start", [](At at, std::uintptr_t tasks, int count, int64_t most_columns, bool sparse,
                               double first_gain) {
        difal::cuda::coverage_start(queue(at), address<const CoverageTask>(tasks), count, most_columns, sparse,
                                    first_gain);
    });
    m.def("coverage_select", [](At at, std::uintptr_t tasks, int count, int64_t most_columns, bool sparse,
                                std::uintptr_t arrivals, int64_t picks, int threads) {
        py::gil_scoped_release release;
        difal::cuda::coverage_select(queue(at), address<const CoverageTask>(tasks), count, most_columns, sparse,
                                     address<unsigned>(arrivals), picks, threads);
    });
    m.def("coverage_fill", [](At at, std::uintptr_t gram, int64_t stride, std::array<int64_t, 4> range,
                              std::uintptr_t columns, const py::kwargs& how) {
        const difal::cuda::Panel panel{address<float>(gram),
                                       stride,
                                       range[0],
                                       range[1],
                                       range[2],
                                       range[3],
                                       address<const int64_t>(columns),
                                       how["symmetric"].cast<bool>()};
        difal::cuda::coverage_fill(queue(at), points_of(how), estimate_of(how), panel);
    });
    m.def("coverage_cover",
          [](At at, std::uintptr_t products, int64_t stride, int64_t row_begin, int64_t row_end, int64_t count,
             std::uintptr_t others, std::uintptr_t scale, std::uintptr_t norms, std::uintptr_t exact,
             std::uintptr_t rounded, const py::kwargs& how) {
              const difal::cuda::Cover cover{address<const float>(products),
                                             stride,
                                             row_begin,
                                             row_end,
                                             count,
                                             address<const void>(others),
                                             address<const float>(scale),
                                             address<const double>(norms),
                                             address<double>(exact),
                                             address<float>(rounded)};
              difal::cuda::coverage_cover(queue(at), points_of(how), estimate_of(how), cover);
          });
    m.def("coverage_norms", [](At at, int64_t rows, std::uintptr_t norms, const py::kwargs& how) {
        difal::cuda::coverage_norms(queue(at), points_of(how), rows, address<double>(norms));
    });
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.doc() = "Native GPU kernels of difal_kernels; use the functions of difal_kernels instead.";
#if defined(DIFAL_EMULATED)
    m.attr("DEVICE") = "cpu";  // every thread a fibre: see tests/gpu/emulator
    m.attr("THREADS") = 64;
#else
    m.attr("DEVICE") = "cuda";
    m.attr("THREADS") = 512;
#endif
    bind_coverage(m);
}
