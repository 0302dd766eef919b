"""Hardware: Amaranth components and the one definition of configuration, registers and descriptors."""
