# Every target is one line; what it does is in Python. Nothing needs root.
PYTHON ?= python3
BIN := .venv/bin
PRESETS := tiny64 ecp5-128 hbm256 ddr512
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long test-peers lint verilog regress bench clean

help:       ## this list
	@sed -n 's/^\([a-z-]*\): .*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

setup:      ## make .venv and install what the other targets need
	@PYTHON="$(PYTHON)" tools/check_prerequisites.sh && $(PYTHON) tools/environment.py dev

demo: setup ## train on a real log, one step of it on the RTL, and compare (5 minutes; writes build/demo/)
	@$(BIN)/tcast demo

test: setup ## lint and every test but the long ones
	@$(BIN)/ruff check . && $(BIN)/python -m pytest -n 2 -m "not long" --ignore=tests/peers

test-long: setup ## the long tests
	@$(BIN)/python -m pytest -n 2 -m long --ignore=tests/peers

test-peers: setup ## install PyTorch and FBGEMM where they can be had, and test against them
	@$(PYTHON) tools/environment.py peers && $(BIN)/python -m pytest tests/peers

lint: setup ## ruff
	@$(BIN)/ruff check .

verilog: setup ## emit the Verilog of every preset to build/verilog/
	@for preset in $(PRESETS); do $(BIN)/tcast emit --preset $$preset -o build/verilog/$$preset || exit 1; done

regress: setup ## the cocotb suites, then every preset with every workload; writes docs/results/
	@$(BIN)/python -m tcast.sim.regress && $(BIN)/python bench/cosim_matrix.py

bench: setup ## measure utilisation, bandwidth, bytes, simulation speed and the CPU backend; writes docs/results/
	@$(BIN)/python bench/utilisation.py && $(BIN)/python bench/bandwidth.py && \
	$(BIN)/python bench/bytes_story.py && $(BIN)/python bench/simspeed.py && \
	$(BIN)/python bench/host.py

clean:      ## remove what was built; .venv stays
	@rm -rf build dist sim_build .pytest_cache .ruff_cache .hypothesis *.egg-info
