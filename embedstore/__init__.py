"""embedstore: frozen embeddings of medical images in plain Zarr, and honest probes on them."""
