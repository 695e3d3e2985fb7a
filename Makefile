# Two commands do everything on a fresh machine: `make reproduce` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= results/gpu
BENCH_OUT ?= results/bench
# more options of gpu-check, such as --only or --limit-s
GPU_CHECK ?=
LOWEST_PYTHON ?= python3.12
LOWEST := .venv-lowest
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# one thread per process: the grid and the tests run as many processes as there are cores
export OMP_NUM_THREADS ?= 1

.PHONY: reproduce methods rehearse test test-lowest test-slurm test-browser lint smoke notebooks bench gpu-check lab clean

reproduce: $(READY)  ## the two budget figures of the tiny models
	$(BIN)/kvrepro grid tiny --cores $(CORES)

methods: $(READY)  ## every method at equal budget, and the ablations as published, on the tiny models
	$(BIN)/kvrepro grid tiny-methods --cores $(CORES)
	$(BIN)/kvrepro grid tiny-ablations --cores $(CORES)

smoke: $(READY)  ## one small cell of each kind, in a minute or two
	$(BIN)/kvrepro grid smoke --cores $(CORES)

test: lint notebooks  ## everything that CI runs
	$(BIN)/python -m pytest -q -n $(CORES) --dist loadfile tests

# torch's CUDA build, about 3 GB of downloads, which runs on a CPU as well
test-lowest: $(LOWEST)/.ready  ## the tests on the lowest torch, triton and transformers of pyproject.toml
	$(LOWEST)/bin/python -m pytest -q -n $(CORES) --dist loadfile tests

# needs Linux and root, and apt-get where SLURM is not installed; refuses a machine that has a SLURM of its own
test-slurm: $(READY)  ## the smoke profile on a SLURM of this machine, with devices that are none, on loopback
	$(BIN)/python tests/slurm/check.py

BROWSERS := chromium chromium-browser google-chrome google-chrome-stable
# the browser is the machine's own; only root, with apt-get, gets one here. BROWSER_ARGS: more options of pytest
test-browser: $(READY)  ## Chromium drives the pages, the viewer and the explorer; prints paths of screenshots
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[browser]"
	@if ! for name in $(BROWSERS); do command -v $$name; done | grep -q .; then \
	  if [ "$$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then \
	    echo "no Chromium and no Chrome: install one, on Debian by: sudo apt-get install chromium" >&2; exit 1; fi; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; fi
	$(BIN)/python -m pytest -q tests/browser $(BROWSER_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: $(READY)  ## every notebook with its defaults: committed numbers, or small runs
	KVREPRO_RESULTS=$$(mktemp -d) MPLBACKEND=agg $(BIN)/python -m pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout 300 --nbval-kernel-startup-timeout 240 notebooks

rehearse: $(READY)  ## the GPU profile on random stand-ins
	$(BIN)/kvrepro rehearse --cores $(CORES)

bench: $(READY)  ## the engine beside transformers.generate, a reference-style loop and kvpress; under 15 minutes
	$(BIN)/kvrepro bench --out $(BENCH_OUT)

# nothing is installed: it uses the Python of the GPU machine, which needs torch, triton and transformers only
# its processes share the cores among themselves, so the one thread of above is not for them
gpu-check:  ## correctness, kernels and decoding on one GPU, under 10 minutes; JSON into OUT
	env -u OMP_NUM_THREADS $(PYTHON) -m kvrepro gpu-check --out $(OUT) $(GPU_CHECK)

# Jupyter refuses to start for root, the only user of most containers, unless told that it is meant. A container has no
# browser, and its loopback is not that of its host; whoever comes needs the token. LAB_ARGS: more flags of Jupyter
CONTAINER := $(or $(wildcard /.dockerenv /run/.containerenv),$(KUBERNETES_SERVICE_HOST))
lab: $(READY)  ## JupyterLab on the notebooks; in a container for its host's browser
	$(if $(CONTAINER),@echo "in a container: publish its port (docker run -p 8888:8888, kubectl port-forward POD 8888) and open the line with 127.0.0.1")
	$(BIN)/jupyter lab --notebook-dir notebooks $(if $(filter 0,$(shell id -u)),--allow-root) $(if $(CONTAINER),--ip=0.0.0.0 --no-browser) $(LAB_ARGS)

clean:
	rm -rf $(VENV) $(LOWEST) results logs .snakemake .pytest_cache .ruff_cache *.egg-info build

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m ipykernel install --sys-prefix --name python3 > /dev/null
	touch $@

$(LOWEST)/.ready: pyproject.toml constraints.txt
	$(LOWEST_PYTHON) -m venv $(LOWEST)
	grep -vE '^(torch|transformers|numpy|setuptools|huggingface[_-]hub)==' constraints.txt > $(LOWEST)/constraints.txt
	# the interpreter of Triton 3.6 takes int() of arrays, which numpy 2.4 refuses
	echo 'numpy<2.4' >> $(LOWEST)/constraints.txt
	sed -nE 's/^ *"(torch|transformers|triton)>=([0-9.]+).*/\1==\2/p' pyproject.toml >> $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable ".[dev]"
	$(LOWEST)/bin/python -m ipykernel install --sys-prefix --name python3 > /dev/null
	touch $@
