"""Hardware: Amaranth components; the one definition of configuration, registers, descriptors."""
