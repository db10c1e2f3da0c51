# Builds nauthilus_backend.so for one Lua or for all, tests it, shows it, installs it.
#
#   make                    the module for the Lua found, into build/lua5.1 … build/lua5.5, build/luajit
#   make help               this
#   make LUA=5.3            for that Lua (5.1 5.2 5.3 5.4 5.5 luajit, or the path of an interpreter)
#   make all-luas           for all six
#   make lib                the library for C hosts without Lua, into build/lib
#   make demo               shows it at work with a real Dovecot (BACKEND=embedded: without one)
#   make test               all tests; make test-NAME runs one suite of tests/suites
#   make bench              measures the module beside its alternatives; QUICK=1, ROWS="tcp tls"
#   make bench-engine       measures parts of the engine alone
#   make soak               the long tests of tests/soak
#   make deps               install what building and testing need (Debian, Ubuntu)
#   make install            the module and the C library: PREFIX=, DESTDIR=, LIBDIR=, LUADIR=, CLIBDIR=
#                           and INCDIR= say where; also install-module, install-lib, uninstall
#
# What a packager may set:
CARGO   ?= cargo
INSTALL ?= install
PREFIX  ?= /usr/local
DESTDIR ?=
# The Lua to build for; .ci/lua finds one where none is said.
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
# Passed to every cargo build, e.g. CARGO_FLAGS="--features vendored-openssl" or --offline.
CARGO_FLAGS ?=

.DEFAULT_GOAL := module
# The builds for the Luas share one target directory and one output name, so they must not run at the same time.
.NOTPARALLEL:
.SUFFIXES:

# rustup installs cargo here, which is not in PATH of shells that are not login shells.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

LUAS := lua5.1 lua5.2 lua5.3 lua5.4 lua5.5 luajit
BUILT := $(or $(CARGO_TARGET_DIR),target)/release/libnauthilus_backend.so

# The soname of the C library.
ABI_VERSION := $(shell sed -n 's/^.define NAUTHILUS_BACKEND_ABI_VERSION //p' include/nauthilus_backend.h)
SONAME := libnauthilus_backend.so.$(ABI_VERSION)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

# lua5.1 … lua5.5 or luajit. A version needs no interpreter; a path is asked what it is, since
# 5.1 and LuaJIT give the same _VERSION.
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
# The version in the paths where that Lua looks for modules; LuaJIT looks where 5.1 does.
LUA_VERSION = $(patsubst lua%,%,$(LUA_ABI:luajit=lua5.1))

.PHONY: module
module: which-lua module-$(LUA_ABI)

.PHONY: which-lua
which-lua:
ifneq ($(WHY),)
	@echo "make: for $(LUA_ABI), since $(LUA) is $(WHY); LUA=5.1, 5.2, 5.3, 5.4, 5.5 or luajit says another"
endif

.PHONY: module-
module-:
ifeq ($(LUA),)
	@echo "make: no Lua found. Say which to build for, none needs to be installed for that: make LUA=5.4" >&2
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
	$(CARGO) build --release --locked --features $(subst .,,$*) $(CARGO_FLAGS)
	@$(INSTALL) -d build/$*
	@$(INSTALL) -m 755 $(BUILT) build/$*/nauthilus_backend.so

.PHONY: lib
lib: toolchain
	$(CARGO) build --release --locked $(CARGO_FLAGS)
	@$(INSTALL) -d build/lib
	@$(INSTALL) -m 755 $(BUILT) build/lib/libnauthilus_backend.so
	@ln -sf libnauthilus_backend.so build/lib/$(SONAME)

# Names missing tools before the build starts. Installs nothing.
.PHONY: toolchain
toolchain:
	@CARGO="$(CARGO)" CARGO_FLAGS="$(CARGO_FLAGS)" .ci/toolchain

# What no package brings, before any is downloaded.
.PHONY: rust
rust:
	@CARGO="$(CARGO)" .ci/toolchain rust

.PHONY: deps
deps:
	.ci/deps build test demo bench

# A second make, because this one looked for interpreters before they were installed.
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
	@$(MAKE) --no-print-directory all-luas lib
	@tests/run

# One suite, or several: make test-specs, make test-openresty.
test-%: rust
	@.ci/deps build test demo
	@$(MAKE) --no-print-directory all-luas lib
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

.PHONY: install
install: install-module install-lib

.PHONY: install-module
install-module: module-$(LUA_ABI)
	$(INSTALL) -d $(DESTDIR)$(LIBDIR)
	$(INSTALL) -m 755 build/$(LUA_ABI)/nauthilus_backend.so $(DESTDIR)$(LIBDIR)/nauthilus_backend.so

# Uses no network and writes only below DESTDIR.
.PHONY: install-lib
install-lib: lib
	$(INSTALL) -d $(DESTDIR)$(CLIBDIR)/pkgconfig $(DESTDIR)$(INCDIR)
	$(INSTALL) -m 755 build/lib/libnauthilus_backend.so $(DESTDIR)$(CLIBDIR)/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(CLIBDIR)/libnauthilus_backend.so
	$(INSTALL) -m 644 include/nauthilus_backend.h $(DESTDIR)$(INCDIR)/nauthilus_backend.h
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@CLIBDIR@|$(CLIBDIR)|' -e 's|@INCDIR@|$(INCDIR)|' -e 's|@VERSION@|$(VERSION)|' \
	    include/nauthilus_backend.pc.in >build/lib/nauthilus_backend.pc
	$(INSTALL) -m 644 build/lib/nauthilus_backend.pc $(DESTDIR)$(CLIBDIR)/pkgconfig/nauthilus_backend.pc

.PHONY: uninstall
uninstall:
	rm -f $(DESTDIR)$(LIBDIR)/nauthilus_backend.so
	rm -f $(DESTDIR)$(CLIBDIR)/$(SONAME) $(DESTDIR)$(CLIBDIR)/libnauthilus_backend.so
	rm -f $(DESTDIR)$(CLIBDIR)/pkgconfig/nauthilus_backend.pc $(DESTDIR)$(INCDIR)/nauthilus_backend.h

.PHONY: clean
clean:
	rm -rf build
	$(CARGO) clean
