// The CPU module `difal_kernels._cpu`, and its part about selection; see bind.h.
#include <pybind11/stl.h>

#include <cstdint>

#include "bind.h"
#include "difal/balls.h"
#include "difal/coverage.h"
#include "difal/farthest.h"
#include "difal/int16_rows.h"
#include "difal/isa.h"
#include "difal/rows.h"
#include "difal/sweep.h"
#include "difal/threads.h"

namespace {

using difal::address;

py::dict as_dict(const difal::CoverageStats& s) {
    py::dict d;
    d["picks"] = s.picks;
    d["contested"] = s.contested;
    d["settled_candidates"] = s.settled_candidates;
    d["rows_updated"] = s.rows_updated;
    return d;
}

difal::RowsJob rows_job(std::uintptr_t features, bool is_double, int64_t rows, int64_t dimension, std::uintptr_t center,
                        double bandwidth, std::uintptr_t out, std::uintptr_t sq_norms) {
    return {address<const void>(features),
            is_double,
            rows,
            dimension,
            address<const void>(center),
            bandwidth,
            address<float>(out),
            address<float>(sq_norms)};
}

void prepare_rows(std::uintptr_t features, bool is_double, int64_t rows, int64_t dimension, std::uintptr_t center,
                  double bandwidth, std::uintptr_t out, std::uintptr_t sq_norms) {
    difal::prepare_rows(rows_job(features, is_double, rows, dimension, center, bandwidth, out, sq_norms));
}

double int16_rounding(std::uintptr_t features, bool is_double, int64_t rows, int64_t dimension, std::uintptr_t center,
                      double bandwidth, std::uintptr_t sq_norms) {
    return difal::int16_rounding(rows_job(features, is_double, rows, dimension, center, bandwidth, 0, sq_norms));
}

void prepare_int16_rows(std::uintptr_t features, bool is_double, int64_t rows, int64_t dimension, std::uintptr_t center,
                        double bandwidth, std::uintptr_t out, std::uintptr_t sq_norms) {
    difal::prepare_int16_rows(rows_job(features, is_double, rows, dimension, center, bandwidth, 0, sq_norms),
                              address<int32_t>(out));
}

void multiply_int16_rows(std::uintptr_t a, int64_t a_rows, std::uintptr_t b, int64_t b_rows, int64_t dimension,
                         std::uintptr_t out, int64_t stride) {
    difal::multiply_int16_rows(address<const int32_t>(a), a_rows, address<const int32_t>(b), b_rows, dimension,
                               address<float>(out), stride);
}

// The constructor shared by DenseGreedy and TiledGreedy: a CoverageProblem by keywords.
template <typename Engine>
py::class_<Engine> bind_engine(py::module_& m, const char* name, const char* doc) {
    using difal::CoverageProblem;
    using difal::KernelKind;
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<Engine> engine(m, name, doc);
    engine
        .def(py::init([](int64_t rows, int64_t columns, int64_t dimension, int32_t type, std::uintptr_t features,
                         int64_t points, int64_t feature_stride, std::uintptr_t weights, std::uintptr_t candidates,
                         std::uintptr_t allowed, int32_t kind, double bandwidth, float sq_dist_rel_err, float tolerance,
                         float relative, float absolute, float quantization_err, std::uintptr_t sq_norms,
                         std::uintptr_t covered, std::uintptr_t row_sq_norms, std::uintptr_t matrix,
                         int64_t matrix_stride, bool is_short, bool symmetric, double first_gain, std::uintptr_t order,
                         int threads) {
                 CoverageProblem p;
                 p.rows = rows;
                 p.columns = columns;
                 p.dimension = dimension;
                 p.type = static_cast<difal::NumberType>(type);
                 p.features = address<const void>(features);
                 p.points = points;
                 p.feature_stride = feature_stride;
                 p.weights = address<const double>(weights);
                 p.candidates = address<const int64_t>(candidates);
                 p.allowed = address<const uint8_t>(allowed);
                 p.kind = static_cast<KernelKind>(kind);
                 p.bandwidth = bandwidth;
                 p.error = {sq_dist_rel_err, tolerance, relative, absolute, quantization_err};
                 p.sq_norms = address<const float>(sq_norms);
                 p.covered = address<const int64_t>(covered);
                 p.row_sq_norms = covered ? address<const float>(row_sq_norms) : p.sq_norms;
                 p.matrix = address<void>(matrix);
                 p.matrix_stride = matrix_stride;
                 p.is_short = is_short;
                 p.symmetric = symmetric;
                 p.first_gain = first_gain;
                 p.order = address<const int64_t>(order);
                 return new Engine(p, threads);
             }),
             py::kw_only(), py::arg("rows"), py::arg("columns"), py::arg("dimension"), py::arg("type"),
             py::arg("features"), py::arg("points"), py::arg("feature_stride"), py::arg("weights"),
             py::arg("candidates"), py::arg("allowed"), py::arg("kind"), py::arg("bandwidth"),
             py::arg("sq_dist_rel_err"), py::arg("tolerance"), py::arg("relative"), py::arg("absolute"),
             py::arg("quantization_err") = 0.0f, py::arg("sq_norms"), py::arg("covered") = 0,
             py::arg("row_sq_norms") = 0, py::arg("matrix") = 0, py::arg("matrix_stride") = 0,
             py::arg("is_short") = false, py::arg("symmetric"), py::arg("first_gain"), py::arg("order") = 0,
             py::arg("threads"))
        .def(
            "cover",
            [](Engine& self, std::uintptr_t labeled, int64_t count, std::uintptr_t products, int64_t stride,
               std::uintptr_t sq_norms) {
                self.cover(address<const void>(labeled), count, address<float>(products), stride,
                           address<const float>(sq_norms));
            },
            Unlocked())
        .def(
            "select",
            [](Engine& self, int64_t count, std::uintptr_t picks, std::uintptr_t gains) {
                self.select(count, address<int64_t>(picks), address<double>(gains));
            },
            Unlocked())
        .def("covered", &Engine::covered, Unlocked());
    return engine;
}

void bind_coverage(py::module_& m) {
    using difal::DenseGreedy;
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    bind_engine<DenseGreedy>(m, "DenseGreedy",
                             "Greedy selection on a stored matrix; see csrc/include/difal/coverage.h.")
        .def(
            "fill",
            [](DenseGreedy& self, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end,
               std::uintptr_t products, int64_t stride) {
                self.fill(row_begin, row_end, column_begin, column_end, address<float>(products), stride);
            },
            Unlocked())
        .def("mirror", &DenseGreedy::mirror, Unlocked())
        .def(
            "cover_with", [](DenseGreedy& self, std::uintptr_t m) { self.cover_with(address<const double>(m)); },
            Unlocked())
        .def("start", &DenseGreedy::start, Unlocked())
        .def("stats", [](const DenseGreedy& self) { return as_dict(self.stats()); });
}

int64_t count_uncertain(int32_t kind, std::uintptr_t products, int64_t rows, int64_t columns,
                        std::uintptr_t row_sq_norms, std::uintptr_t column_sq_norms, float sq_dist_rel_err,
                        float tolerance, float relative, float absolute) {
    return difal::count_uncertain(static_cast<difal::KernelKind>(kind),
                                  {sq_dist_rel_err, tolerance, relative, absolute, 0.0f}, address<float>(products),
                                  rows, columns, address<const float>(row_sq_norms),
                                  address<const float>(column_sq_norms));
}

void bind_sweep(py::module_& m) {
    using difal::TiledGreedy;
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    bind_engine<TiledGreedy>(m, "TiledGreedy", "Greedy selection without the matrix; see csrc/include/difal/sweep.h.")
        .def(
            "guess",
            [](TiledGreedy& self, int64_t j, std::uintptr_t products) {
                return self.guess(j, address<float>(products));
            },
            Unlocked())
        .def("keep", &TiledGreedy::keep)
        .def("guesses", &TiledGreedy::guesses)
        .def(
            "copy_coverage",
            [](const TiledGreedy& self, int64_t count, std::uintptr_t out, int64_t n) {
                const double* m = self.coverage(count);
                for (int64_t i = 0; i < n; ++i) address<double>(out)[i] = m[i];
            },
            Unlocked())
        .def("gain", &TiledGreedy::gain, Unlocked())
        .def(
            "begin",
            [](TiledGreedy& self, int64_t first, int64_t alive_at, int64_t entries, int64_t block,
               std::uintptr_t wanted) { self.begin(first, alive_at, entries, block, address<const uint8_t>(wanted)); },
            Unlocked())
        .def("forget", &TiledGreedy::forget, Unlocked())
        .def("drop", &TiledGreedy::drop, Unlocked())
        .def("resume", &TiledGreedy::resume, Unlocked())
        .def(
            "select_above",
            [](TiledGreedy& self, int64_t count, std::uintptr_t picks, std::uintptr_t gains, double least) {
                return self.select(count, address<int64_t>(picks), address<double>(gains), least);
            },
            Unlocked())
        .def(
            "tile",
            [](TiledGreedy& self, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end,
               std::uintptr_t tile, std::uintptr_t transposed, int64_t stride) {
                self.tile(row_begin, row_end, column_begin, column_end, address<float>(tile),
                          address<float>(transposed), stride);
            },
            Unlocked())
        .def(
            "replace",
            [](TiledGreedy& self, int64_t t, std::uintptr_t points, int64_t count, int64_t moved,
               std::uintptr_t products) {
                return self.replace(t, address<const int64_t>(points), count, moved, address<float>(products));
            },
            Unlocked())
        .def("changed_rows",
             [](const TiledGreedy& self, std::uintptr_t rows) { self.changed_rows(address<int64_t>(rows)); })
        .def(
            "retake",
            [](TiledGreedy& self, int64_t batch, int64_t column_begin, int64_t column_end, std::uintptr_t tile,
               int64_t stride) { self.retake(batch, column_begin, column_end, address<float>(tile), stride); },
            Unlocked())
        .def(
            "forget_lower",
            [](TiledGreedy& self, std::uintptr_t rows) { return self.forget_lower(address<int64_t>(rows)); },
            Unlocked())
        .def(
            "gather_again",
            [](TiledGreedy& self, std::uintptr_t rows, int64_t count, int64_t column_begin, int64_t column_end,
               std::uintptr_t tile, int64_t stride, bool own) {
                self.gather_again(address<const int64_t>(rows), count, column_begin, column_end, address<float>(tile),
                                  stride, own);
            },
            Unlocked())
        .def(
            "kernel_rows",
            [](const TiledGreedy& self, std::uintptr_t rows, int64_t count, int64_t column_begin, int64_t column_end,
               std::uintptr_t products, int64_t stride) {
                self.kernel_rows(address<const int64_t>(rows), count, column_begin, column_end,
                                 address<float>(products), stride);
            },
            Unlocked())
        .def(
            "add_gains",
            [](const TiledGreedy& self, int64_t t, std::uintptr_t points, int64_t count, int64_t row_begin,
               int64_t row_end, std::uintptr_t products, int64_t stride, std::uintptr_t gains) {
                self.add_gains(t, address<const int64_t>(points), count, row_begin, row_end, address<float>(products),
                               stride, address<double>(gains));
            },
            Unlocked())
        .def(
            "add_taken",
            [](const TiledGreedy& self, std::uintptr_t rows, std::uintptr_t low, std::uintptr_t high,
               std::uintptr_t weights, int64_t count, int64_t column_begin, int64_t column_end, std::uintptr_t products,
               int64_t stride, std::uintptr_t taken) {
                self.add_taken(address<const int64_t>(rows), address<const float>(low), address<const float>(high),
                               address<const double>(weights), count, column_begin, column_end,
                               address<float>(products), stride, address<double>(taken));
            },
            Unlocked())
        .def("gathered", &TiledGreedy::gathered)
        .def(
            "gains",
            [](const TiledGreedy& self, int64_t t, std::uintptr_t out, std::uintptr_t alive) {
                self.gains(t, address<double>(out), address<double>(alive));
            },
            Unlocked())
        .def(
            "settle",
            [](TiledGreedy& self, int64_t j, std::uintptr_t products, bool fresh, int64_t t, double threshold) {
                return self.settle(j, address<float>(products), fresh, t, threshold);
            },
            Unlocked())
        .def(
            "start",
            [](TiledGreedy& self, double first_gain, std::uintptr_t picked) {
                self.start(first_gain, address<const int64_t>(picked));
            },
            Unlocked())
        .def("entries", &TiledGreedy::entries)
        .def("stats", [](const TiledGreedy& self) { return as_dict(self.stats()); });
}

void bind_balls(py::module_& m) {
    using difal::Balls;
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    bind_engine<Balls>(m, "Balls", "Greedy max coverage by balls; see csrc/include/difal/balls.h.")
        .def("begin", &Balls::begin, Unlocked())
        .def(
            "tile",
            [](Balls& self, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end,
               std::uintptr_t tile) { self.tile(row_begin, row_end, column_begin, column_end, address<float>(tile)); },
            Unlocked())
        .def("end", &Balls::end, Unlocked())
        .def("pairs", &Balls::pairs, Unlocked())
        .def("best",
             [](Balls& self) {
                 double gain;
                 const int64_t j = self.best(&gain);
                 return std::make_tuple(j, gain);
             })
        .def(
            "take",
            [](Balls& self, int64_t j, std::uintptr_t products, std::uintptr_t newly) {
                return self.take(j, address<float>(products), address<int64_t>(newly));
            },
            Unlocked())
        .def(
            "lower",
            [](Balls& self, std::uintptr_t rows, int64_t count, int64_t column_begin, int64_t column_end,
               std::uintptr_t products) {
                self.lower(address<const int64_t>(rows), count, column_begin, column_end, address<float>(products));
            },
            Unlocked());
}

void bind_farthest(py::module_& m) {
    using difal::Farthest;
    using Unlocked = py::call_guard<py::gil_scoped_release>;
    py::class_<Farthest>(m, "Farthest", "Farthest-first traversal; see csrc/include/difal/farthest.h.")
        .def(py::init([](int64_t rows, int64_t dimension, int32_t type, std::uintptr_t features, std::uintptr_t allowed,
                         int threads) {
                 return new Farthest(rows, dimension, static_cast<difal::NumberType>(type),
                                     address<const void>(features), address<const uint8_t>(allowed), threads);
             }),
             py::kw_only(), py::arg("rows"), py::arg("dimension"), py::arg("type"), py::arg("features"),
             py::arg("allowed"), py::arg("threads"))
        .def(
            "cover",
            [](Farthest& self, std::uintptr_t points, int64_t count) {
                self.cover(address<const void>(points), count);
            },
            Unlocked())
        .def(
            "select",
            [](Farthest& self, int64_t count, std::uintptr_t picks, std::uintptr_t distances) {
                self.select(count, address<int64_t>(picks), address<double>(distances));
            },
            Unlocked())
        .def("radius", &Farthest::radius, Unlocked())
        .def("reads", &Farthest::reads)
        .def("bounds", &Farthest::bounds);
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of difal_kernels; use the functions of difal_kernels instead.";
    difal::set_interrupt_check([] {  // Ctrl-C: in Python's main thread alone, where this sets the exception
        py::gil_scoped_acquire held;
        return PyErr_CheckSignals() != 0;
    });
    py::register_exception_translator([](std::exception_ptr thrown) {
        try {
            if (thrown) std::rethrow_exception(thrown);
        } catch (const difal::Interrupted&) {
            if (!PyErr_Occurred()) PyErr_SetNone(PyExc_KeyboardInterrupt);
        }
    });
    m.def("isa", &difal::isa_name, "The instruction set that the kernels run with.");
    m.def("prepare_rows", &prepare_rows, py::call_guard<py::gil_scoped_release>(), "See csrc/include/difal/rows.h.");
    m.def("int16_rounding", &int16_rounding, py::call_guard<py::gil_scoped_release>(),
          "See csrc/include/difal/int16_rows.h.");
    m.def("prepare_int16_rows", &prepare_int16_rows, py::call_guard<py::gil_scoped_release>());
    m.def("multiply_int16_rows", &multiply_int16_rows, py::call_guard<py::gil_scoped_release>());
    m.def("int16_block_size", &difal::int16_block_size, "int32 words of 16 rows.");
    m.def("int16_in_tiles", &difal::int16_in_tiles, "Whether rows are laid out for AMX; see difal/int16_rows.h.");
    m.def("int16_roundings", &difal::int16_roundings, "float32 roundings of a sum; see difal/int16_rows.h.");
    m.def("has_vnni", &difal::has_vnni, "Whether 16-bit integers are multiplied faster than float32.");
    m.def("has_amx", &difal::has_amx, "Whether they are multiplied as tiles of 8-bit integers.");
    m.def("count_uncertain", &count_uncertain, py::arg("kind"), py::arg("products"), py::arg("rows"),
          py::arg("columns"), py::arg("row_sq_norms"), py::arg("column_sq_norms"), py::kw_only(),
          py::arg("sq_dist_rel_err"), py::arg("tolerance"), py::arg("relative"), py::arg("absolute"),
          py::call_guard<py::gil_scoped_release>());
    bind_coverage(m);
    bind_sweep(m);
    bind_balls(m);
    bind_farthest(m);
    bind_cpu_maps(m);
}
