"""``embedstore serve``: a local page over one store, and the API behind it."""
