"""Heads, one a file; installed as `embedstore.probes`."""

if __name__ != "embedstore.probes":  # a second copy of every class would not be the same class
    raise ImportError("import embedstore.probes, not probes")
