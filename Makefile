# The two commands of the README are `make run` and `make test`; both set up all they need in $(VENV).
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check -q
ARGS ?=
# Where `make install` puts things; with DESTDIR, under that folder instead of the machine's own root.
export DESTDIR PREFIX SYSCONFDIR

.PHONY: run test bench lint format docs install uninstall check-machine check-test-machine clean

run: $(VENV)/.installed-daemon
	$(VENV)/bin/fabstird run $(ARGS)

test: check-test-machine lint
	$(VENV)/bin/pytest $(ARGS)

# The speed of the API beside others of its kind, as a markdown table; a minute or two on a machine at rest.
bench: check-test-machine $(VENV)/.installed-test
	$(VENV)/bin/python -m bench.table $(ARGS)

lint: $(VENV)/.installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	MYPYPATH=$(VENV)/typings $(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.installed-test
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# docs/openrpc.json, and the half of docs/api.md that is made from the code
docs: $(VENV)/.installed-daemon
	$(VENV)/bin/fabstird openrpc >docs/openrpc.json
	sed -i '/^<!-- made by: make docs -->$$/q' docs/api.md
	echo >>docs/api.md
	$(VENV)/bin/fabstird openrpc --markdown >>docs/api.md

install:
	@scripts/install install

uninstall:
	@scripts/install uninstall

check-machine:
	@scripts/check-machine >/dev/null

check-test-machine:
	@scripts/check-machine test >/dev/null

$(VENV)/bin/python: | check-machine
	"$$(scripts/check-machine)" -m venv $(VENV)

$(VENV)/.installed-daemon: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[daemon]'
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e '.[daemon,test]'
	scripts/link-typings $(VENV)
	touch $@ $(VENV)/.installed-daemon

.PHONY: interop
# The matrix of transports and other implementations, and the features; writes docs/interop.md. An implementation that
# cannot run here is a failure. Those in network namespaces need root and nftables, and are left out loudly elsewhere.
interop: check-test-machine $(VENV)/.installed-test
	FABSTIR_REQUIRE=js,go,rust$$([ "$$(id -u)" -ne 0 ] || echo ,root) FABSTIR_INTEROP_REPORT=docs/interop.md \
		$(VENV)/bin/pytest $(addprefix tests/interop/test_,$(addsuffix .py,matrix dht mdns reachability fabstir_node)) \
		--deselect tests/interop/test_matrix.py::test_the_document_is_the_generators $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache
