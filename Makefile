# make demo: the main job on synthetic mammograms, nothing downloaded but packages
# make test: the suite        make check: what .ci/run runs: lint, types, suite
# make bench: against other tools, which it installs beside; QUICK=1 for small sizes
# make docs: the documents as pages in build/docs, which open without a server or a network

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: demo test check lint bench docs clean

demo: .venv/installed
	$(BIN)/embedstore phantoms $(DEMO)/films --patients 60 --size 384
	$(BIN)/embedstore extract $(DEMO)/films/manifest.csv --store $(DEMO)/films.zarr \
		--backbone statistics --backbone phantom-clip
	$(BIN)/embedstore info $(DEMO)/films.zarr
	$(BIN)/embedstore search $(DEMO)/films.zarr --id p0000_L_MLO --backbone phantom-clip -k 5
	$(BIN)/embedstore probe $(DEMO)/films.zarr --label density --order A,B,C,D \
		--head logistic --head knn

test: .venv/installed-test
	$(BIN)/python -m pytest -n 3 --dist loadfile -q

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: .venv/installed-test
	$(BIN)/python -m benchmarks.peers $(if $(QUICK),--quick)

docs: .venv/installed-test
	$(BIN)/mkdocs build --site-dir build/docs

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv $(DEMO) build dist *.egg-info
