"""Simulation: Verilator builds, memory models, cocotb benches, the simulated device."""
