"""Host path: CPU and CuPy backends, adapters to peers."""
