"""Generators of what users take away: Verilog, register maps, headers, references."""
