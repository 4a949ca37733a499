# From a fresh clone: `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := pyproject.toml setup.py constraints.txt $(shell find csrc -type f)

.PHONY: venv test demo photo bench lint clean
venv: $(VENV)/.installed

# The stamp is written last: an install that was cut short is taken up again.
$(VENV)/.installed: $(SOURCES)
	@echo "Installing into $(VENV), torch included: this takes some minutes and says nothing meanwhile."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[loop,test,bench]"
	touch $@

test: venv
	$(BIN)/python -m pytest tests

# Six rounds on drawn scenes with the embedded encoder, then the report.
demo: venv
	rm -rf demo/scenes
	$(BIN)/difal run --data scenes:36,12,0 --encoder tiny --rounds 6 --budget 0.25 --candidates 2000 --draws 3 \
		--bank demo/bank --out demo/scenes
	$(BIN)/difal report demo/scenes

# Fifty pixels of a photograph, beside the naive loop.
photo: venv
	$(BIN)/python examples/photo.py

bench: venv
	$(BIN)/python -m pytest bench/bench_*.py --benchmark-only -p no:cacheprovider -s

lint: venv
	$(BIN)/python -m pip install --quiet "ruff>=0.6" "clang-format>=18"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.inl' | xargs $(BIN)/clang-format --dry-run --Werror

clean:
	rm -rf build dist demo $(VENV) *.egg-info difal_kernels/*.so
