# make demo: two minutes on Phantom (DATA=defects: on drawn photographs).   make test: all tests.   make check: style and types.   make comparison: results/phantom.md
PYTHON ?= python3
VENV := .venv
WORKERS ?= 2
DATA ?= phantom
BIN := $(VENV)/bin

.PHONY: setup demo test check comparison

setup: $(VENV)/.ready

# The last line has Python look for modules in code/ where it does not look beside a script: -P, -I, PYTHONSAFEPATH.
$(VENV)/.ready: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	echo "$(CURDIR)/code" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/semisegbench.pth"
	touch $@

demo: setup
	$(BIN)/python code/demo.py --data $(DATA)

comparison: setup
	$(BIN)/python code/compare.py

test: setup
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy code
