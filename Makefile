# make demo: the main job on synthetic mammograms, nothing downloaded but packages
# make test: the suite        make check: what .ci/run runs: lint, types, suite
# make fuzz: every reader on damaged input, N seconds each (60)
# make mutants: the scores', splits' and commits' tests against changed code, for N seconds (1500)
# make bench: against other tools, which it installs beside; QUICK=1 for small sizes
# make docs: the documents as pages in build/docs, which open without a server or a network
# make sbom: what an installation brings: build/sbom.json (CycloneDX) and the table of docs/licences.md

PYTHON ?= python3
BIN := .venv/bin
DEMO := demo

.PHONY: demo test check lint bench fuzz mutants docs sbom clean

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

fuzz: .venv/installed-test
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[fuzz]"
	nice $(BIN)/python fuzz/fuzz.py --seconds $(or $(N),60)

mutants: .venv/installed-test
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[mutants]"
	-timeout $(or $(N),1500) nice $(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

bench: .venv/installed-test
	$(BIN)/python -m benchmarks.peers $(if $(QUICK),--quick)

docs: .venv/installed-test
	$(BIN)/mkdocs build --site-dir build/docs

sbom: build/release/installed build/tools/installed
	build/tools/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
		--output-reproducible -o build/sbom.json build/release/bin/python
	build/tools/bin/pip-licenses --python build/release/bin/python --with-system \
		--ignore-packages embedstore pip --format markdown --output-file build/licences.md
	sed -i '/^| Name/,$$d' docs/licences.md
	# of a licence that is its whole text, the first line
	awk -F'|' '$$2 ~ /[^ ]/' build/licences.md | sed 's/  *|/ |/g; s/---*/---/g' >> docs/licences.md

build/release/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear build/release
	build/release/bin/python -m pip install -q -c constraints.txt .
	touch $@

build/tools/installed:
	$(PYTHON) -m venv build/tools
	build/tools/bin/python -m pip install -q cyclonedx-bom==7.5.0 pip-licenses==5.5.5
	touch $@

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf .venv $(DEMO) build mutants dist *.egg-info
