"""The table of kernel functions: complete, the same in C++ and Triton, and what the oracle computes."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from difal_kernels.ops.maxherding import bounds, reference, result
from difal_kernels.ops.maxherding.backends import BACKENDS
from difal_kernels.ops.maxherding.kernel_functions import KERNEL_FUNCTIONS, OF_FEATURES, KernelFunction, kernel_matrix
from selection import blobs

ROOT = Path(__file__).parents[2]
MAXHERDING = ROOT / "difal_kernels/ops/maxherding"
OF_DISTANCE = [name for name, function in KERNEL_FUNCTIONS.items() if function.from_squared is not None]


@pytest.mark.parametrize("field", [field.name for field in fields(KernelFunction)])
def test_leaving_out_a_field_is_an_error(field):
    given = {f.name: getattr(KERNEL_FUNCTIONS["rbf"], f.name) for f in fields(KernelFunction) if f.name != field}
    with pytest.raises(TypeError, match=field):
        KernelFunction(**given)


def test_the_codes_are_those_of_csrc():
    header = ROOT / "csrc/include/difal/coverage_kernels.h"
    if not header.exists():
        pytest.skip("the source tree is not here")
    names = re.search(r"enum class KernelKind : int32_t \{ (.*) \};", header.read_text())[1].split(", ")
    assert {name: code for code, name in enumerate(names)} == {f.name: f.code for f in KERNEL_FUNCTIONS.values()}


def test_the_codes_are_those_of_the_triton_kernels():
    text = (MAXHERDING / "backends/gpu/arithmetic.py").read_text()
    for name, function in KERNEL_FUNCTIONS.items():
        assert f"\n{name.upper()} = tl.constexpr({function.code})\n" in text


@pytest.mark.parametrize("kernel", OF_FEATURES)
def test_the_values_are_those_of_the_oracle(kernel):
    x, y = blobs(50, 7), blobs(30, 7, seed=1)
    assert torch.equal(kernel_matrix(x, y, kernel, 3.0), reference.kernel_matrix(x, y, kernel, 3.0))


@pytest.mark.parametrize("kernel", OF_FEATURES)
@pytest.mark.skipif(BACKENDS["cpu"].unavailable() is not None, reason=str(BACKENDS["cpu"].unavailable()))
def test_the_values_of_csrc(kernel):
    """Of the stored matrix, which has one row that is as far from all as float32 can tell."""
    from difal_kernels.ops.maxherding.dense import DenseSelection
    from difal_kernels.ops.maxherding.problem import prepare

    x = blobs(60, 7)
    (p,) = prepare(x, 1, kernel=kernel, **({} if kernel == "cosine" else {"bandwidth": 9.0})).problems
    matrix = DenseSelection(BACKENDS["cpu"], [p]).matrix.keep[-1].double().clamp(min=0)
    torch.testing.assert_close(matrix, kernel_matrix(x, x, kernel, 9.0), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", OF_DISTANCE)
def test_an_estimate_from_a_squared_distance(kernel):
    q = torch.linspace(0, 30, 1001, dtype=torch.float64)
    want = kernel_matrix(torch.zeros(1, 1), q.sqrt()[:, None], kernel, 1.0)[0]
    torch.testing.assert_close(KERNEL_FUNCTIONS[kernel].from_squared(q.clone()), want, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kernel", [name for name in OF_DISTANCE if name != "tophat"])
def test_the_slope_is_no_less_than_the_derivative(kernel):
    """And not twice as much, but for laplace, whose slope pays for an estimate below the distance, too."""
    function = KERNEL_FUNCTIONS[kernel]
    q = torch.linspace(1e-3, 30, 5001, dtype=torch.float64, requires_grad=True)
    one = torch.zeros(1, 1, dtype=torch.float64)
    r = (q.sqrt())[:, None]
    k = function.value(one, r, 1.0)[0]
    (derivative,) = torch.autograd.grad(k.log().sum(), q)
    slope = function.log_slope(k.detach())
    assert bool((slope >= derivative.abs() * (1 - 1e-9)).all())
    assert float(slope.max()) <= function.largest_slope
    assert kernel in ("laplace", "student_t") or bool((slope <= 2 * derivative.abs()).all())


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}:{alias.name}" for alias in node.names}
    return found


def test_the_oracle_imports_torch_alone_and_only_its_backend_imports_it():
    assert imports(MAXHERDING / "reference.py") == {"__future__:annotations", "torch"}
    users = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "difal_kernels").rglob("*.py")
        for name in imports(path)
        if re.search(r"(maxherding|^\.\.|^\.)(\.reference)?:", name)
        and "reference" in name
        and "maxherding" in (str(path) + name)
    }
    assert users == {
        "difal_kernels/ops/maxherding/backends/reference.py",
        "difal_kernels/ops/maxherding/backends/__init__.py",  # that backend
        "difal_kernels/testing.py",
    }
    assert reference.TIE == result.TIE


def test_no_backend_imports_another():
    folders = {path.name for path in (MAXHERDING / "backends").iterdir() if path.is_dir()}
    names = folders - {"gpu", "__pycache__"}  # `gpu` is what CUDA and Triton share
    assert names >= {"cpu", "cuda", "triton"}
    for name in names:
        for path in (MAXHERDING / "backends" / name).glob("*.py"):
            others = names - {name}
            for found in imports(path):
                assert not any(
                    re.search(rf"\.\.{other}\b|backends\.{other}\b|backends:{other}\b", found) for other in others
                )
    for path in MAXHERDING.glob("*.py"):
        assert path.name in ("__init__.py", "incremental.py") or not any("backends" in name for name in imports(path))


def test_csrc_and_triton_have_the_constants_of_the_bounds():
    header = ROOT / "csrc/include/difal/coverage_kernels.h"
    if not header.exists():
        pytest.skip("the source tree is not here")
    assert f"kSteps = {bounds.STEPS}.0f" in header.read_text()
    factor = f"{bounds.ROUNDINGS.second_order}"
    assert f"times({factor}f, estimated" in (ROOT / "csrc/include/difal/estimate.h").read_text()
    assert f"near * 0 + {factor}, " in (MAXHERDING / "backends/gpu/arithmetic.py").read_text()
