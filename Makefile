# Builds nauthilus_backend.so for one Lua or for all, tests it, shows it, installs it.
#
#   make                    the module for the Lua found, into build/lua5.1 … build/lua5.5, build/luajit; the
#                           library and the command
#   make module             the module alone
#   make help               prints this list
#   make LUA=5.3            for that Lua (5.1 5.2 5.3 5.4 5.5 luajit, or the path of an interpreter)
#   make all-luas           for all six
#   make lib                the library for C hosts without Lua, into build/lib
#   make command            the command nauthilus-backend, into build/bin, with man pages and completions
#   make demo               a demonstration with a real Dovecot (BACKEND=embedded: without one)
#   make test               all tests; make test-NAME runs one suite of tests/suites
#   make bench              measures the module and its alternatives; QUICK=1, ROWS="tcp tls"
#   make bench-engine       measures parts of the engine alone
#   make soak               the long tests of tests/soak
#   make dist               a source archive that builds without a network, into build/dist
#   make deps               installs the packages that all these commands need (Debian, Ubuntu)
#   make install            installs module, library and command: PREFIX=, DESTDIR=, LIBDIR=, CLIBDIR=, INCDIR=, BINDIR=, MANDIR=, SHAREDIR=
#                           and DOCDIR= say where; also install-module, install-lib, install-command, uninstall
#   make deb                a Debian package of these, into build/deb; DEB_LUAS= says for which Luas
#
# What a packager may set:
CARGO   ?= cargo
INSTALL ?= install
PREFIX  ?= /usr/local
DESTDIR ?=
# The Lua to build for. If none is given, .ci/lua finds one.
ifeq ($(origin LUA),undefined)
FOUND   := $(shell .ci/lua)
LUA     := $(firstword $(FOUND))
WHY     := $(wordlist 2,99,$(FOUND))
endif
# The Lua C modules and the Lua files of the Lua that is built for.
LIBDIR  ?= $(PREFIX)/lib/lua/$(LUA_VERSION)
LUADIR  ?= $(PREFIX)/share/lua/$(LUA_VERSION)
# The library for C hosts, its pkg-config file and its header.
CLIBDIR ?= $(PREFIX)/lib
INCDIR  ?= $(PREFIX)/include
# The command, its man pages, its completions, examples and licences.
BINDIR  ?= $(PREFIX)/bin
MANDIR  ?= $(PREFIX)/share/man
SHAREDIR ?= $(PREFIX)/share
DOCDIR  ?= $(SHAREDIR)/doc/nauthilus-backend
# The Luas for which a Debian package has modules. LuaJIT's module replaces the one for 5.1, since both Luas search the
# same folder.
DEB_LUAS ?= lua5.2 lua5.3 lua5.4 lua5.5 luajit
# Passed to every cargo build, e.g. CARGO_FLAGS="--features vendored-openssl" or --offline.
CARGO_FLAGS ?=

# LuaRocks calls make with CC=gcc. In the environment of cargo this would make cargo build OpenSSL's bindings, and all
# that depends on them, again, although the compiler is the same.
ifeq ($(origin CC) $(CC),command line gcc)
unexport CC
endif

.DEFAULT_GOAL := build
# The builds for the Luas share one target directory and one output name, so they must not run at the same time.
.NOTPARALLEL:
.SUFFIXES:

# rustup installs cargo here. Only login shells have this folder in PATH.
CARGO_DIR := $(or $(CARGO_HOME),$(HOME)/.cargo)
export PATH := $(PATH):$(CARGO_DIR)/bin

# Panic messages contain names of source files. With this setting they contain no folder of this machine, so that two
# machines with the same compiler build the same bytes. RUSTFLAGS in the environment replaces this setting.
REPRODUCIBLE := --config 'build.rustflags=["--remap-path-prefix=$(CARGO_DIR)/registry/src=crates", "--remap-path-prefix=$(CURDIR)/vendor=vendor"]'

LUAS := lua5.1 lua5.2 lua5.3 lua5.4 lua5.5 luajit
BUILT := $(or $(CARGO_TARGET_DIR),target)/release/libnauthilus_backend.so

# Tests set this to dev: a debug build takes less time.
COMMAND_PROFILE ?= release
BUILT_COMMAND := $(or $(CARGO_TARGET_DIR),target)/$(COMMAND_PROFILE:dev=debug)/nauthilus-backend
COMMAND_FLAGS = $(CARGO_FLAGS)$(if $(filter-out release,$(COMMAND_PROFILE)), $(COMMAND_PROFILE))

# The soname of the C library.
ABI_VERSION := $(shell sed -n 's/^.define NAUTHILUS_BACKEND_ABI_VERSION //p' include/nauthilus_backend.h)
SONAME := libnauthilus_backend.so.$(ABI_VERSION)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# LUA_ABI is lua5.1 … lua5.5 or luajit. For a version no interpreter is needed. An interpreter is run to find out what
# it is; its _VERSION is not enough, since 5.1 and LuaJIT have the same.
ifneq ($(filter $(LUA),5.1 5.2 5.3 5.4 5.5),)
INTERPRETER := lua$(LUA)
LUA_ABI := lua$(LUA)
else ifneq ($(filter $(LUA),$(LUAS)),)
INTERPRETER := $(LUA)
LUA_ABI := $(LUA)
else ifneq ($(LUA),)
INTERPRETER := $(LUA)
LUA_ABI := $(shell $(LUA) -e 'io.write(jit and "luajit" or "lua" .. _VERSION:match("%d%.%d"))' 2>/dev/null)
endif
# The version in the folders in which that Lua searches modules; LuaJIT searches those of 5.1.
LUA_VERSION = $(patsubst lua%,%,$(LUA_ABI:luajit=lua5.1))

.PHONY: build
build: module lib command

.PHONY: module
module: which-lua module-$(LUA_ABI)

.PHONY: which-lua
which-lua:
ifneq ($(WHY),)
	@echo "make: building for $(LUA_ABI): $(LUA) is $(WHY); for another Lua set LUA=5.1, 5.2, 5.3, 5.4, 5.5 or luajit"
endif

# What is made for a Lua if there is none.
.PHONY: module-
module-:
ifeq ($(LUA),)
	@echo "make: no Lua found. Name it, even if it is not installed: make LUA=5.4 …" >&2
	@echo "      (5.1, 5.2, 5.3, 5.4, 5.5, luajit, or the path of an interpreter)" >&2
else
	@echo "make: '$(LUA)' is no Lua: set LUA to 5.1, 5.2, 5.3, 5.4, 5.5, luajit or the path of an interpreter" >&2
endif
	@exit 2

.PHONY: help
help:
	@sed -n '1,/^# What a packager/{/^# What a packager/d;/^#$$/d;s/^# //p}' Makefile

.PHONY: all-luas
all-luas: $(LUAS:%=module-%)

# Cargo decides what to rebuild. `install` replaces the file rather than writing into it: writing would
# crash processes that have the old file mapped.
.PHONY: $(LUAS:%=module-%)
$(LUAS:%=module-%): module-%: toolchain
	CARGO='$(CARGO)' .ci/library $(REPRODUCIBLE) --features $(subst .,,$*) $(CARGO_FLAGS)
	@$(INSTALL) -d build/$*
	@$(INSTALL) -m 755 $(BUILT) build/$*/nauthilus_backend.so
	@echo '$(CARGO_FLAGS)' >build/$*/.flags

.PHONY: lib
lib: toolchain
	CARGO='$(CARGO)' .ci/library $(REPRODUCIBLE) $(CARGO_FLAGS)
	@$(INSTALL) -d build/lib
	@$(INSTALL) -m 755 $(BUILT) build/lib/libnauthilus_backend.so
	@ln -sf libnauthilus_backend.so build/lib/$(SONAME)
	@echo '$(CARGO_FLAGS)' >build/lib/.flags

# The command itself writes its man pages and completions, from the definition of its subcommands.
.PHONY: command
command: toolchain
	$(CARGO) build --profile $(COMMAND_PROFILE) --locked --features command --bin nauthilus-backend $(CARGO_FLAGS)
	@$(INSTALL) -d build/bin
	@$(INSTALL) -m 755 $(BUILT_COMMAND) build/bin/nauthilus-backend
	@build/bin/nauthilus-backend manual build/bin
	@echo '$(COMMAND_FLAGS)' >build/bin/.flags

# Names missing tools before the build starts. Installs nothing.
.PHONY: toolchain
toolchain:
	@CARGO="$(CARGO)" CARGO_FLAGS="$(CARGO_FLAGS)" .ci/toolchain

# Checks Rust, which no package of .ci/deps contains, before any package is downloaded.
.PHONY: rust
rust:
	@CARGO="$(CARGO)" .ci/toolchain rust

.PHONY: deps
deps:
	.ci/deps build test demo bench

# Calls make again, because this make has looked for interpreters before they were installed.
.PHONY: demo
demo: rust
	@.ci/deps build demo$(if $(filter embedded,$(BACKEND)),-embedded)
	@$(MAKE) --no-print-directory demo-run

.PHONY: demo-run
demo-run: module
	@examples/demo $(INTERPRETER) build/$(LUA_ABI) $(or $(BACKEND),dovecot)

.PHONY: test
test: rust
	@.ci/deps build test demo
	@.ci/modules
	@tests/run

# One suite, or several: make test-specs, make test-openresty.
test-%: rust
	@.ci/deps build test demo
	@.ci/modules
	@tests/run $*

# Writes the tables of configuration keys in docs/configuration.md; a test compares them.
.PHONY: docs-keys
docs-keys:
	WRITE_DOCS=1 $(CARGO) test --locked --quiet --test docs_keys

.PHONY: soak
soak: rust
	@.ci/deps build test demo systems
	@$(MAKE) --no-print-directory all-luas lib
	@SUITES=tests/soak tests/run

.PHONY: bench
bench: rust
	@.ci/deps build bench
	@$(MAKE) --no-print-directory module-luajit module-lua5.4
	@benches/run $(ROWS)

.PHONY: bench-engine
bench-engine: toolchain
	$(CARGO) bench --locked --bench engine

# Files that are built and no older than their sources are installed without a build: after `make` as a user,
# `sudo make install` needs neither Rust nor a network. It writes only below DESTDIR, and into build.
PLACES = DESTDIR PREFIX LIBDIR CLIBDIR INCDIR BINDIR MANDIR SHAREDIR DOCDIR LUA_ABI SONAME VERSION INSTALL
in_places = @env $(foreach name,$(PLACES),$(name)='$($(name))') .ci/install
ensure = @.ci/current '$1' '$(or $3,$(CARGO_FLAGS))' || $(MAKE) --no-print-directory $2

.PHONY: install
install: install-module install-lib install-command
	$(in_places) put data

.PHONY: install-module
install-module: which-lua
	$(call ensure,build/$(LUA_ABI)/nauthilus_backend.so,module-$(LUA_ABI))
	$(in_places) put module

.PHONY: install-lib
install-lib:
	$(call ensure,build/lib/libnauthilus_backend.so,lib)
	$(in_places) put library

.PHONY: install-command
install-command:
	$(call ensure,build/bin/nauthilus-backend,command,$(COMMAND_FLAGS))
	$(in_places) put command

# The module's folder has the name of a Lua.
.PHONY: uninstall
uninstall: $(if $(LUA_ABI),,module-)
	$(in_places) remove module library command data

# The rockspec names these targets.
.PHONY: rock install-rock
rock: module command
install-rock: install-module
	$(call ensure,build/bin/nauthilus-backend,command,$(COMMAND_FLAGS))
	$(INSTALL) -d '$(BINDIR)'
	$(INSTALL) -m 755 build/bin/nauthilus-backend '$(BINDIR)/nauthilus-backend'

.PHONY: deb
deb:
	@set -e; for lua in $(DEB_LUAS); do \
	    .ci/current build/$$lua/nauthilus_backend.so '$(CARGO_FLAGS)' || $(MAKE) --no-print-directory module-$$lua; \
	done
	$(call ensure,build/lib/libnauthilus_backend.so,lib)
	$(call ensure,build/bin/nauthilus-backend,command,$(COMMAND_FLAGS))
	@env SONAME=$(SONAME) VERSION=$(VERSION) INSTALL='$(INSTALL)' .ci/deb $(DEB_LUAS)

# The files of the last commit and the sources of all crates, with which cargo needs no network. Packed
# from one commit the archive has the same bytes on every machine, save for the version of gzip.
DIST := nauthilus_backend-$(VERSION)
.PHONY: dist
dist: toolchain
	@rm -rf build/dist/$(DIST) && $(INSTALL) -d build/dist
	git archive --format=tar --prefix=$(DIST)/ HEAD | tar -x -C build/dist
	cd build/dist/$(DIST) && $(INSTALL) -d .cargo && \
	    $(CARGO) vendor --locked --versioned-dirs $(CARGO_FLAGS) >.cargo/config.toml 2>vendored || { cat vendored >&2; exit 1; }; rm vendored
	tar -c -C build/dist --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
	    --mtime="$$(git log -1 --format=%cI)" $(DIST) | gzip -9n >build/dist/$(DIST).tar.gz
	@rm -rf build/dist/$(DIST)
	@cd build/dist && sha256sum $(DIST).tar.gz >$(DIST).tar.gz.sha256
	@ls -l build/dist/$(DIST).tar.gz

.PHONY: clean
clean:
	rm -rf build
	$(CARGO) clean
