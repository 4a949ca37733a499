#!/usr/bin/env bash
# Everything there is to check on a machine with an NVIDIA GPU, in less than nine minutes: builds the extension, runs the
# GPU tests with skips as failures, the benchmarks into bench/results/gpu, and compute-sanitizer on small cases.
#
#   bash bench/gpu_check.sh              on such a machine; OUT=folder puts results and logs there instead
#   bash bench/gpu_check.sh --no-gpu     all that needs no device: compiles the kernels for every architecture, runs them
#                                        emulated on the host, and goes through the benchmarks in miniature
#
# Each step has a limit, and so has each case of the benchmarks, whose rows are written as they come. The exit status is
# the number of steps that failed.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
limit=${LIMIT:-530}
out=${OUT:-$root/bench/results/gpu}
no_gpu=; [ "${1:-}" = --no-gpu ] && no_gpu=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
[ -n "$no_gpu" ] && out=$work
mkdir -p "$out"
: >"$out/log.txt"  # one log and one file of results: few files come back from some machines
failed=0
SECONDS=0

# step NAME SECONDS COMMAND...: runs it with a limit, keeps its log, counts its failure.
step() {
    local name=$1 most=$2 left=$((limit - SECONDS))
    shift 2
    [ -n "$no_gpu" ] && left=$most
    if [ "$left" -lt 5 ]; then
        echo "== $name: left out, no time"
        failed=$((failed + 1))
        return 1
    fi
    [ "$most" -gt "$left" ] && most=$left
    local began=$SECONDS
    timeout --kill-after=5 "$most" "$@" >"$work/$name.log" 2>&1
    local status=$?
    { echo "== $name"; cat "$work/$name.log"; } >>"$out/log.txt"
    tail -n 12 "$work/$name.log" | sed 's/^/   /'
    if [ $status -eq 0 ]; then
        echo "== $name: passed in $((SECONDS - began)) s"
    else
        echo "== $name: FAILED with status $status after $((SECONDS - began)) s"
        failed=$((failed + 1))
    fi
    return $status
}

# Tests and benchmarks run outside of the source tree, so that what is imported is what was installed.
pytest_() { (cd "$work" && exec "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider "$@"); }
bench_() { (cd "$work" && exec "$python" "$root/bench/bench_gpu.py" "$@"); }
sanitize_() { (cd "$work" && exec compute-sanitizer --tool "$1" --error-exitcode 9 "$python" "$root/tests/gpu/small_cases.py"); }
export -f pytest_ bench_ sanitize_
export root work python

if [ -n "$no_gpu" ]; then
    export PYTHONPATH="$root:$root/python_api${PYTHONPATH:+:$PYTHONPATH}"
    export DIFAL_EMULATOR_CACHE="${DIFAL_EMULATOR_CACHE:-$root/build/emulator}"
    if command -v nvcc >/dev/null; then
        step compile 1800 "$python" bench/compile_cuda.py ${ARCHS:+--archs "$ARCHS"}
    else
        echo "== compile: left out, nvcc is not on the PATH"
    fi
    if "$python" -c 'import triton.language' 2>/dev/null; then
        step compile-triton 1800 "$python" bench/compile_triton.py ${ARCHS:+--archs "$ARCHS"}
        step tests-triton 1500 bash -c 'pytest_ -q "$root/tests/triton"'
    else
        echo "== compile-triton, tests-triton: left out, triton is not installed"
    fi
    step tests 1200 bash -c 'pytest_ -q "$root/tests/gpu"'
    step small-cases 600 "$python" tests/gpu/small_cases.py --emulated
    step bench 600 env TRITON_INTERPRET=1 "$python" -c 'import runpy, sys
sys.path[:0] = ["tests/gpu/emulator", "bench"]
import plugin
sys.argv = ["bench_gpu.py", "--dry-run"]
runpy.run_path("bench/bench_gpu.py", run_name="__main__")'
    echo "== $failed steps failed; nothing here ran on a GPU"
    exit "$failed"
fi

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || { echo "no GPU: use --no-gpu"; exit 99; }
"$python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
export DIFAL_CUDA=1 DIFAL_CUDA_ARCHS="${DIFAL_CUDA_ARCHS:-native}" DIFAL_REQUIRE_BACKENDS=cuda,triton
step build 150 "$python" -m pip install --no-build-isolation --no-deps --force-reinstall . || exit 100
step tests 100 bash -c 'pytest_ -q -x "$root/tests/gpu" ${DIFAL_GPU_TESTS:-}'
# What is only compiled needs no GPU: it is left to --no-gpu.
step tests-triton 100 bash -c 'pytest_ -q -x "$root/tests/triton" --ignore "$root/tests/triton/test_compile.py"'
sanitizing=75
step bench $((limit - sanitizing - SECONDS)) \
    bash -c "bench_ --out '$out' --seconds $((limit - sanitizing - SECONDS - 10))"
for tool in memcheck racecheck synccheck; do
    if command -v compute-sanitizer >/dev/null; then
        step "$tool" $((sanitizing / 3)) bash -c "sanitize_ $tool"
    else
        echo "== $tool: left out, compute-sanitizer is not on the PATH"
    fi
done
echo "== $failed steps failed, $SECONDS s in all"
exit "$failed"
