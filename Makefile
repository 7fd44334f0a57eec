# Everything a person does here. `make` alone says what there is.
PYTHON ?= python3
TUFT_PYTHON ?= $(PYTHON)
# Test processes side by side, one more than a small machine has cores, for many tests wait; a file stays in one.
JOBS ?= 3
PYTEST = $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --durations=15
VENV := .venv
DOCS_VENV := .venv-docs
AUDIT_VENV := .venv-audit
TUFT_VENV := .venv-tuft
BIN := $(VENV)/bin

.PHONY: help demo up test test-slow check format proto docs sbom audit bench clean
help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

# torch first: the trainer's tests compare with it, and a bare `torch` would bring CUDA libraries of several GB.
$(VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -e '.[embedded]'
	@touch $@
$(VENV)/dev-stamp: $(VENV)/stamp
	scripts/install_cpu_torch.sh $(BIN)/python
	$(BIN)/pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@

## make demo [DATA=my.jsonl]  train a LoRA adapter on a real TuFT server on this CPU, end to end (about 4 minutes)
demo: $(VENV)/stamp
	@scripts/install_tuft_cpu.sh $(TUFT_VENV) $(TUFT_PYTHON)
	@$(BIN)/python -m turnloom.demo --tuft-python $(TUFT_VENV)/bin/python $(if $(DATA),--data '$(DATA)') $(DEMO_FLAGS)

## make up                    the same stack in the foreground, for `turnloom` from another terminal
up: $(VENV)/stamp
	@scripts/install_tuft_cpu.sh $(TUFT_VENV) $(TUFT_PYTHON)
	@$(BIN)/turnloom up --tuft-python $(TUFT_VENV)/bin/python

## make test                  the tests: real Redis, real gRPC, real TuFT on the CPU (under 10 minutes)
test: $(VENV)/dev-stamp
	@scripts/install_tuft_cpu.sh $(TUFT_VENV) $(TUFT_PYTHON)
	$(PYTEST) -m 'not slow'

## make test-slow             kill matrix, demo, template sweep
test-slow: $(VENV)/dev-stamp
	@scripts/install_tuft_cpu.sh $(TUFT_VENV) $(TUFT_PYTHON)
	$(PYTEST) -m slow

## make check                 ruff, mypy --strict, buf lint and breaking, stubs without drift
check: $(VENV)/dev-stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHON=$(PYTHON) scripts/check_proto.sh
	$(BIN)/python -m pytest -q tests/unit/test_import_arrows.py tests/unit/test_house.py

## make format                let ruff format and mend
format: $(VENV)/dev-stamp
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

## make proto                 write turnloom/v1 from proto/turnloom/v1
proto:
	PYTHON=$(PYTHON) scripts/generate_stubs.sh

## make docs                  the documentation as a site, build/docs; a broken link fails it
docs: $(DOCS_VENV)/stamp
	$(DOCS_VENV)/bin/sphinx-build -q -W --keep-going -d build/doctrees -b html docs build/docs

$(DOCS_VENV)/stamp: pyproject.toml
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install -q --disable-pip-version-check -e '.[docs]'
	@touch $@

## make sbom                  what the images hold, as CycloneDX files in build/sbom
sbom: $(AUDIT_VENV)/stamp
	@mkdir -p build/sbom
	@for lock in deploy/requirements/*.txt; do \
	  $(AUDIT_VENV)/bin/cyclonedx-py requirements --output-reproducible --of JSON \
	    -o build/sbom/$$(basename $$lock .txt).cdx.json $$lock && echo build/sbom/$$(basename $$lock .txt).cdx.json || exit 1; \
	done

## make audit                 the same packages looked up among known security notices; needs PyPI's own JSON API
audit: $(AUDIT_VENV)/stamp
	@for lock in deploy/requirements/*.txt; do \
	  echo $$lock; $(AUDIT_VENV)/bin/pip-audit --disable-pip --no-deps --strict -r $$lock || exit 1; \
	done

$(AUDIT_VENV)/stamp: scripts/requirements-audit.txt
	$(PYTHON) -m venv $(AUDIT_VENV)
	$(AUDIT_VENV)/bin/pip install -q --disable-pip-version-check -r scripts/requirements-audit.txt
	@touch $@

## make bench                 tables of bench/ with peers beside us, in an environment of their own
bench: $(VENV)/stamp
	scripts/run_bench.sh

## make clean                 remove environments and state that make made
clean:
	rm -rf $(VENV) $(TUFT_VENV) .venv-proto .venv-docs .venv-audit .venv-bench .turnloom build dist *.egg-info
