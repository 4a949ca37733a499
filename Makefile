# From a fresh clone: `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := pyproject.toml setup.py constraints.txt $(shell find csrc -type f)
PIP    := $(BIN)/python -m pip install --quiet --progress-bar on

.PHONY: venv loop test demo label segment photo bench peers kcenter products docs smoke sanitize lint types cuda-compile gpu-wheel triton-compile clean
venv: $(VENV)/.installed
loop: $(VENV)/.loop

# The stamps are written last: an install that was cut short is taken up again.
$(VENV)/.loop: $(SOURCES)
	@echo "Installing the package into $(VENV), torch included: some minutes, 1 to 2 GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --constraint constraints.txt --editable ".[loop]"
	touch $@

$(VENV)/.installed: $(SOURCES)
	@echo "Installing the package, and what its tests, benchmarks and docs need, into $(VENV): some minutes, 3 GB."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(PIP) --constraint constraints.txt --editable ".[loop,test,bench,docs]"
	@echo "The package is installed; now two of the libraries that it is tested beside."
	@# Baal's own requirements bring all of Jupyter; its heuristics need these. anomalib's bring OpenVINO; its coreset needs none.
	$(PIP) --no-deps "baal==2.1.0" "structlog<23" torchmetrics lightning-utilities
	$(PIP) --no-deps "anomalib==2.7.0"
	touch $@ $(VENV)/.loop

# Two processes, each with files of its own; OpenMP's threads do not spin while they wait, since the cores are shared.
test: venv
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest tests --numprocesses 2 --dist loadfile

# Six rounds on drawn scenes, 54 pixels queried; ends with where the report is.
demo: loop
	rm -rf demo/scenes
	$(BIN)/difal run --data scenes:36,12,0 --rounds 6 --budget 0.25 --candidates 2000 --noise-samples 3 \
		--cache demo/cache --out demo/scenes

# The annotator in the browser, on drawn scenes; Ctrl+C stops it, the same command goes on.
label: loop
	$(BIN)/difal label --data scenes:24,8,0 --out demo/label

# Two photographs segmented by forty queried pixels; the README's first picture is that of docs/make_photos_figure.py.
segment: venv
	rm -rf demo/photos
	$(BIN)/python examples/segment_photos.py demo/photos

# Fifty pixels of a photograph, beside the naive loop.
photo: venv
	$(BIN)/python examples/photo.py

# The extension under AddressSanitizer and UndefinedBehaviorSanitizer, then under ThreadSanitizer; the GPU kernels, as the
# tests emulate them, under the first two.
sanitize: venv
	$(BIN)/python csrc/sanitize/run.py address
	$(BIN)/python csrc/sanitize/run.py thread
	$(BIN)/python csrc/sanitize/run.py address tests/gpu/test_cuda_maxherding.py tests/gpu/test_cuda_maps.py -k "not beyond_two"

bench: venv
	$(BIN)/python -m pytest bench/bench_*.py --benchmark-only -p no:cacheprovider -s

# The same features to every facility-location library, in an environment of their own (coreax brings all of JAX):
# bench/results/cpu/peers.{json,md,png}. About ten minutes on two quiet cores.
PEERS := build/peers/venv
peers: venv
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch numpy matplotlib \
		apricot-select coreax kmedoids scikit-activeml submodlib-py
	$(PEERS)/bin/python bench/peers --anew

# Farthest-first traversal likewise: bench/results/cpu/kcenter.{json,md}.
kcenter: venv
	$(BIN)/python -m pip install --quiet --no-deps fpsample skmatter
	$(BIN)/python bench/kcenter.py

# Rates of the inner products that selection rests on: bench/results/cpu/products.{json,md}.
products: venv
	$(BIN)/python bench/products.py

# The site in build/site, its pictures drawn anew.
docs: venv
	$(BIN)/python docs/make_theory_figure.py
	$(BIN)/python docs/make_disagreement_figure.py
	$(BIN)/python docs/make_loop_figure.py
	$(BIN)/python docs/make_photos_figure.py
	$(BIN)/python examples/photo.py docs/img/picks.png
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Source distribution, a wheel made from it, and that in an empty environment.
smoke: venv
	rm -rf build/dist build/smoke
	DIFAL_CUDA=0 $(BIN)/python -m build --outdir build/dist
	$(PYTHON) -m venv build/smoke
	build/smoke/bin/python -m pip install --quiet --constraint constraints.txt build/dist/*.whl
	cd build && smoke/bin/python ../tests/smoke.py

# Every GPU kernel for every architecture, and what ptxas says of each; needs nvcc, no GPU. With one: bench/gpu_check.sh
cuda-compile:
	$(PYTHON) bench/compile_cuda.py

# The package with its kernels for one kind of GPU and Python, to be carried to a machine where minutes count; needs nvcc.
# bench/gpu_check.sh finds it in dist/gpu.
GPU_PYTHON ?= python3.12
GPU_ARCHS ?= 90
gpu-wheel:
	rm -rf dist/gpu
	DIFAL_CUDA=1 DIFAL_CUDA_ARCHS="$(GPU_ARCHS)" DIFAL_JOBS=0 $(GPU_PYTHON) -m pip wheel --no-deps --wheel-dir dist/gpu .
	find csrc setup.py -type f -not -path 'csrc/sanitize/*' | xargs sha256sum > dist/gpu/sources.sha256

# The same for the Triton kernels; needs no nvcc and no GPU.
triton-compile: venv
	$(BIN)/python bench/compile_triton.py

lint: venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ruff clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc tests/gpu -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.inl' | xargs $(BIN)/clang-format --dry-run --Werror

types: venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt mypy types-PyYAML
	$(BIN)/python -m mypy

clean:
	rm -rf build dist demo $(VENV) *.egg-info difal_kernels/*.so
