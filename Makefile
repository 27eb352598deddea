# The one makefile. `make help` lists what a person would call.
#
# Objects lie in build/<variant>/, one variant per kind of build:
#   make              build/release/hv
#   make SAN=asan     build/asan/   AddressSanitizer and UBSan
#   make SAN=tsan     build/tsan/   ThreadSanitizer
#   make SAN=cov      build/cov/    gcov
#   make SAN=fuzz     build/fuzz/   clang, libFuzzer with AddressSanitizer and UBSan # lab 99
#   make CC=clang     works too; WERROR=0 lets warnings pass; V=1 shows the commands

# What is tagged with a lab's number is there from that lab on (see labs/); 99: in the complete tree only. # lab 99

SAN ?=
VARIANT := $(or $(SAN),release)
B := build/$(VARIANT)
WERROR ?= 1
# lab 99 {
PREFIX ?= /usr/local
DESTDIR ?=
# }
CFLAGS ?= -O2 -g

VERSION := 0.1.0

# One short line for each file that is made, none with -s, the whole command with V=1.
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
silent := $(findstring s,$(firstword -$(MAKEFLAGS)))
say = $(if $(Q),$(if $(silent),,@printf '  %-5s %s\n' $(1) $@))

WARN := -Wall -Wextra -Wshadow -Wvla -Wundef -Wpointer-arith -Wwrite-strings \
        -Wstrict-prototypes -Wmissing-prototypes -Wimplicit-fallthrough -Wformat=2
# In a tree made for a lab, functions that wait for their bodies use none of their parameters.
WARN += -Wno-unused-parameter
ifeq ($(WERROR),1)
WARN += -Werror
endif

SAN_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SAN_tsan := -fsanitize=thread
SAN_cov := --coverage -O0
SAN_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer # lab 99
ifneq ($(filter-out asan tsan cov fuzz,$(SAN)),)
$(error SAN=$(SAN) is not a variant: asan, tsan, cov, fuzz)
endif
# lab 99 {
ifeq ($(SAN),fuzz)
CC := clang
endif
# }
SANFLAGS := $(SAN_$(SAN))

ALL_CFLAGS = -std=gnu17 $(CFLAGS) $(WARN) $(SANFLAGS) -pthread -D_GNU_SOURCE -Iinclude -Isrc -Ibuild/gen \
             -DHV_VERSION='"$(VERSION)"' -MMD -MP
ALL_LDFLAGS = $(LDFLAGS) $(SANFLAGS) -pthread
LIBS :=
LIBS += -lzstd -llzma -llz4 -lz -ljansson # lab 05
LIBS += -luring # lab 08

# Everything but the program's main() is a library, which hv and all tests link.
CLI := $(wildcard src/cli/*.c)
LIB := $(filter-out $(CLI),$(wildcard src/*/*.c))
LIB_O := $(LIB:%.c=$(B)/%.o) $(patsubst %.S,$(B)/%.o,$(wildcard src/*/*.S))
CLI_O := $(CLI:%.c=$(B)/%.o)

.DELETE_ON_ERROR:
.SECONDARY:
.DEFAULT_GOAL := all

all: $(B)/hv guests ## build hv and the small guests

$(B)/hv: $(CLI_O) $(B)/libhv.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(B)/libhv.a: $(LIB_O)
	@rm -f $@
	$(call say,AR)
	$(Q)$(AR) rcs $@ $^

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(B)/%.o: %.S Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# lab 05 {
# The DSDT is ACPI source language, compiled into a C array that src/acpi/dsdt.c includes.
build/gen/dsdt.hex: src/acpi/dsdt.asl include/hv/acpi/fixed.h
	@mkdir -p $(@D)
	$(call say,IASL)
	$(Q)$(CC) -E -P -x assembler-with-cpp -DACPI_ASL -Iinclude $< -o build/gen/dsdt.asl
	$(Q)iasl -oa -ve -p build/gen/dsdt -tc build/gen/dsdt.asl >build/gen/iasl.log || { cat build/gen/iasl.log; exit 1; }
$(B)/src/acpi/dsdt.o: build/gen/dsdt.hex
# }

# --- guests: assembled and linked with binutils alone; C ones freestanding ---
include guest/guest.mk

# --- unit tests: one Criterion program per tests/unit/<layer>/test_<file>.c ---
UNIT := $(wildcard tests/unit/*/test_*.c)
UNIT_BIN := $(UNIT:%.c=$(B)/%)
SUPPORT_O := $(patsubst %.c,$(B)/%.o,$(wildcard tests/support/*.c))

unit: $(UNIT_BIN) ## build the unit tests

$(B)/tests/unit/%: $(B)/tests/unit/%.o $(SUPPORT_O) $(B)/libhv.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS) -lcriterion

$(B)/tests/%.o: ALL_CFLAGS += -Itests

# lab 99 {
# --- tests with threads: plain programs (Criterion does not start under TSan) ---
THREAD_BIN := $(patsubst %.c,$(B)/%,$(wildcard tests/thread/test_*.c))

threads: $(THREAD_BIN)

$(B)/tests/thread/%: $(B)/tests/thread/%.o $(B)/tests/thread/crew.o $(B)/libhv.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# --- fuzzing: one libFuzzer program per tests/fuzz/fuzz_<name>.c, with SAN=fuzz ---
FUZZ_BIN := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SUPPORT_O := $(patsubst %.c,$(B)/%.o,$(wildcard tests/fuzz/virtio_*.c))
FUZZ_SECONDS ?= 60

fuzzers: $(FUZZ_BIN)

$(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(FUZZ_SUPPORT_O) $(B)/libhv.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LIBS)
# }

-include $(LIB_O:.o=.d) $(CLI_O:.o=.d) $(UNIT_BIN:%=%.d) $(SUPPORT_O:.o=.d)
-include $(THREAD_BIN:%=%.d) $(FUZZ_BIN:%=%.d) $(FUZZ_SUPPORT_O:.o=.d) # lab 99

# lab 99 {
# --- a program of the system tests that runs in Linux guests, where there is no libc ---
guests: $(G)/vsock_guest
$(G)/vsock_guest: tests/system/vsock_guest.c
	@mkdir -p $(@D)
	$(call say,GUEST)
	$(Q)$(GUEST_CC) -static -O2 $(WARN) -o $@ $<

# --- running tests; tests/run builds what it needs ---
test: ## run every test; installs what is missing (after naming it)
	@tests/setup/deps test
	@tests/run

test-unit: ## run the unit tests alone
	@tests/run unit

test-system: ## run hv with guests, here or in the lab machine
	@tests/run system

test-intel: ## run the tests that tell Intel from AMD, under VT-x in Bochs (takes minutes)
	@tests/setup/deps test intel
	@tests/run intel

fuzz: ## fuzz every target for FUZZ_SECONDS=60 each
	@tests/fuzz/run --fuzz-seconds $(FUZZ_SECONDS)

check-format: ## is the code formatted as .clang-format says?
	@tests/style/check -k format

.PHONY: threads fuzzers test test-unit test-system test-intel fuzz check-format
# }

clean: ## remove what was built (build/cache keeps downloads)
	@if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +; fi

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.PHONY: all unit clean help guests

# lab 99 {
# --- the bench: hv against QEMU and against a loop that does nothing; BENCH="--only boot --runs 3" ---
$(B)/tests/bench/bare_loop: $(B)/tests/bench/bare_loop.o
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^

$(B)/tests/bench/queue_loop: $(B)/tests/bench/queue_loop.o $(B)/libhv.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

bench: ## measure hv against QEMU: a table, build/bench/results.json and .svg
	@tests/setup/deps bench
	@$(MAKE) -s all $(B)/tests/bench/bare_loop $(B)/tests/bench/queue_loop
	@tests/bench/run $(BENCH)

.PHONY: bench

# --- slides: HTML and PDF of slides/NN-*.md in build/slides; SLIDES="--png DIR" paints the pages ---
slides: ## make the course's slides, HTML and PDF, in build/slides
	@tests/setup/deps slides
	@slides/tool/slides $(SLIDES)

slides-check: ## test the slides: does everything fit on its page?
	@tests/setup/deps slides
	@tests/run slides

.PHONY: slides slides-check

# --- what a user calls ---
demo: ## boot Linux under hv (installs what is missing, after naming it)
	+@MAKE='$(MAKE)' guest/linux/demo

install: $(B)/hv ## install hv, manual and completion (PREFIX=/usr/local DESTDIR=)
	install -D -m 755 $(B)/hv $(DESTDIR)$(PREFIX)/bin/hv
	install -D -m 644 src/cli/hv.1 $(DESTDIR)$(PREFIX)/share/man/man1/hv.1
	install -D -m 644 src/cli/hv-control.7 $(DESTDIR)$(PREFIX)/share/man/man7/hv-control.7
	install -D -m 644 src/cli/hv.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hv
	install -D -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/doc/hv/LICENSE

uninstall: ## remove what make install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/hv $(DESTDIR)$(PREFIX)/share/man/man1/hv.1 \
	      $(DESTDIR)$(PREFIX)/share/man/man7/hv-control.7 \
	      $(DESTDIR)$(PREFIX)/share/bash-completion/completions/hv $(DESTDIR)$(PREFIX)/share/doc/hv/LICENSE
	@rmdir $(DESTDIR)$(PREFIX)/share/doc/hv 2>/dev/null || true

.PHONY: demo install uninstall
# }
