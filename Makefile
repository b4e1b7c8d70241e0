# `make` alone prints what there is. The two commands of the README are `make run` and `make test`; both set up all they
# need in $(VENV), from the locks, with every file checked against its hash.
VENV ?= .venv
TOOLS = $(VENV)-tools
ARGS ?=
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' fabstir_client/_version.py)
# Where `make install` puts things; with DESTDIR, under that folder instead of the machine's own root.
export DESTDIR PREFIX SYSCONFDIR

.DEFAULT_GOAL := help
.PHONY: help run test check test-fast fuzz bench lint format docs install uninstall lock audit sbom release deb check-machine check-test-machine clean

help: ## this list
	@echo "usage: make TARGET [ARGS='…']"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

run: $(VENV)/.installed-daemon ## run the daemon; ARGS="--data-dir DIR" go to it
	@$(VENV)/bin/python scripts/say-open --then $(ARGS)
	$(VENV)/bin/fabstird run $(ARGS)

# Side by side as far as may be: each daemon has its own directory, and ports that the kernel gives it.
test: check-test-machine lint ## check the code and run all tests; ARGS go to pytest
	PYTEST=$(VENV)/bin/pytest scripts/test $(ARGS)

check: lint ## lint and unit tests, in a minute or so
	PYTEST=$(VENV)/bin/pytest scripts/test -q tests/unit $(ARGS)

FAST = tests $(addprefix --ignore=tests/,interop faults service)
test-fast: check-test-machine lint ## all tests but interop, faults and service
	PYTEST=$(VENV)/bin/pytest scripts/test -q $(FAST) $(ARGS)

# Peers that say anything on every protocol, for ten minutes; FABSTIR_SEED repeats what they say.
fuzz: check-test-machine $(VENV)/.installed-test ## attack a daemon with mutated messages, for 10 min
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(VENV)/bin/pytest -q -s tests/faults/test_fuzz.py $(ARGS)

# The speed of the API beside others of its kind, as a markdown table; a minute or two on a machine at rest.
bench: check-test-machine $(VENV)/.installed-test ## measure the API's speed beside others of its kind
	$(VENV)/bin/python -m bench.table $(ARGS)

.PHONY: fleet
# The daemons are found and scraped as in a fleet; FABSTIR_FLEET=100 for more of them.
fleet: check-test-machine $(VENV)/.installed-test ## have a Prometheus scrape FABSTIR_FLEET=20 daemons
	FABSTIR_FLEET=$${FABSTIR_FLEET:-20} FABSTIR_REQUIRE=prometheus $(VENV)/bin/pytest -q tests/observe/test_fleet.py $(ARGS)

.PHONY: bench-streams
# Builds go's, js's and rust's peers of the interop tests first, where that was not done yet.
bench-streams: check-test-machine $(VENV)/.installed-test ## measure streams beside go and js; ARGS="--only echo"
	$(VENV)/bin/python -m bench.streams $(ARGS)

.PHONY: bench-quic
bench-quic: check-test-machine $(VENV)/.installed-test ## measure QUIC beside TCP and js; ARGS="--cycles 10000"
	$(VENV)/bin/python -m bench.quic $(ARGS)

.PHONY: nat-lab
# Two daemons behind each pair of NATs, in network namespaces: how often they become direct; needs root. ARGS="10": tries.
nat-lab: check-test-machine $(VENV)/.installed-test ## print the hole-punch table of the NAT laboratory
	$(VENV)/bin/python -W ignore -m tests.network.nat_table $(ARGS)

.PHONY: dht-sim
# The DHT in simulated networks of 10,000 nodes, as the table of docs/dht.md. ARGS="--size N --seeds 1 --only churn"
dht-sim: $(VENV)/.installed-test ## simulate DHTs of 10,000 nodes; ARGS="--size N"
	$(VENV)/bin/python -m bench.dht_sim $(ARGS)

.PHONY: dht-triples
# Each of js, go, rust and the daemon between each two of them, as a table of docs/dht.md; a minute or two.
dht-triples: check-test-machine $(VENV)/.installed-test ## check the DHT between fabstird, js, go and rust
	FABSTIR_REQUIRE=js,go,rust FABSTIR_TRIPLES=docs/dht.md $(VENV)/bin/pytest tests/interop/test_dht_triples.py $(ARGS)

lint: $(VENV)/.installed-test ## check style, types, and who may import whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	MYPYPATH=$(VENV)/typings $(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python scripts/unasync --check

format: $(VENV)/.installed-test ## format the code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# docs/openrpc.json, the half of docs/api.md that is made from the code, the types of the TypeScript client, and the
# configuration with its defaults
docs: $(VENV)/.installed-daemon ## make openrpc.json, the reference, types for TypeScript
	cp fabstird/config/example.toml config.example.toml
	$(VENV)/bin/fabstird openrpc | tee docs/openrpc.json >fabstir_client/openrpc.json
	sed -i '/^<!-- made by: make docs -->$$/q' docs/api.md
	echo >>docs/api.md
	$(VENV)/bin/fabstird openrpc --markdown >>docs/api.md
	$(VENV)/bin/python scripts/typescript-types
	$(VENV)/bin/python scripts/reference-pages

# Everything is in build/site: no page loads anything from elsewhere, and a link that leads nowhere ends the build.
.PHONY: docs-site
docs-site: $(VENV)-docs/.installed ## build the documents as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/python -W ignore -m mkdocs build --strict $(ARGS)
	@echo build/site/index.html

install: ## install program and units; as root, or with DESTDIR
	@scripts/install install

uninstall: ## remove them; data and configuration stay
	@scripts/install uninstall

check-machine:
	@scripts/check-machine >/dev/null

check-test-machine:
	@scripts/check-machine test >/dev/null

$(VENV)/bin/python: | check-machine
	"$$(scripts/check-machine)" -m venv $(VENV)

$(VENV)/.installed-daemon: pyproject.toml locks/build.txt locks/runtime.txt | $(VENV)/bin/python
	@scripts/install-locked $(VENV) locks/runtime.txt
	@touch $@

$(VENV)/.installed-test: pyproject.toml locks/build.txt locks/test.txt | $(VENV)/bin/python
	@scripts/install-locked $(VENV) locks/test.txt
	scripts/link-typings $(VENV)
	@touch $@ $(VENV)/.installed-daemon

# Apart from $(VENV): what only makes and audits the locks shares no package with what runs.
$(TOOLS)/.installed: locks/build.txt locks/tools.txt | check-machine
	@"$$(scripts/check-machine)" -m venv $(TOOLS)
	@scripts/install-locked $(TOOLS) locks/tools.txt --without-project
	@touch $@

$(VENV)-docs/.installed: locks/build.txt locks/docs.txt | check-machine
	@"$$(scripts/check-machine)" -m venv $(VENV)-docs
	@scripts/install-locked $(VENV)-docs locks/docs.txt --without-project
	@touch $@

# A change of pyproject.toml or locks/*.in needs it. ARGS=--upgrade takes the newest of everything, and
# ARGS="--upgrade-package NAME" of one.
lock: $(TOOLS)/.installed ## resolve the locks; ARGS=--upgrade for newer versions
	scripts/lock $(TOOLS) $(ARGS)

# Where the database of vulnerabilities cannot be reached, it says so.
audit: $(TOOLS)/.installed ## look up known vulnerabilities of locked packages
	scripts/audit $(TOOLS) locks/runtime.txt locks/test.txt locks/build.txt locks/tools.txt

# FABSTIR_URL is where it is published.
release: ## make a release in dist/, from the last commit
	@scripts/release make

deb: ## build a package for this machine's Debian in dist/
	@scripts/deb

# dist/fabstir-VERSION.cdx.json, from locks/runtime.txt
sbom: ## write a CycloneDX bill of materials to dist/
	@mkdir -p dist
	@scripts/sbom >dist/sbom.new && mv dist/sbom.new dist/fabstir-$(VERSION).cdx.json
	@echo dist/fabstir-$(VERSION).cdx.json

.PHONY: interop-peers
# Tests build them when they need one; done before, it takes no processor from tests that run beside it.
interop-peers: check-test-machine $(VENV)/.installed-test ## build the js, go and rust peers of the interop tests
	@for peer in js go rust; do $(VENV)/bin/python -m tests.interop.$${peer}peer || exit; done

.PHONY: interop
# The matrix of transports and other implementations, and the features; writes docs/interop.md. An implementation that
# cannot run here is a failure. Those in network namespaces need root and nftables, and are left out loudly elsewhere.
interop: check-test-machine $(VENV)/.installed-test ## test against other libp2ps; writes docs/interop.md
	FABSTIR_REQUIRE=js,go,rust$$([ "$$(id -u)" -ne 0 ] || echo ,root) FABSTIR_INTEROP_REPORT=docs/interop.md \
		$(VENV)/bin/pytest $(addprefix tests/interop/test_,$(addsuffix .py,matrix tls dht streams mdns reachability fabstir_node)) \
		--deselect tests/interop/test_matrix.py::test_the_document_is_the_generators $(ARGS)

.PHONY: interop-versions
# The same peers on other versions of their libraries, which are installed or built first: FABSTIR_REQUIRE=js,go,rust.
# With ARGS, rows that are left out stay in the document as they were.
interop-versions: check-test-machine $(VENV)/.installed-test ## write docs/interop-versions.md; ARGS="-k js-1.9"
	FABSTIR_REQUIRE=js,go,rust FABSTIR_INTEROP_VERSIONS=docs/interop-versions.md $(VENV)/bin/pytest \
		-n 3 tests/interop/test_versions.py --deselect tests/interop/test_versions.py::test_the_document_is_the_generators $(ARGS)

clean: ## remove what was installed and built here
	rm -rf $(VENV) $(TOOLS) $(VENV)-docs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
