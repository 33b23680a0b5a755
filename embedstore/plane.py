"""Vectors laid out in two dimensions, to be looked at."""

from __future__ import annotations

import numpy as np

from embedstore.types import Floats

_FIRST = 50  # principal components that neighbours are told by
_PERPLEXITY = 30.0


def laid_out(unit: Floats, seed: int = 0) -> tuple[Floats, str]:
    """Place (n, d) unit vectors in the plane, (n, 2) centred on 0 and within -1..1; also say how.

    t-SNE (van der Maaten and Hinton 2008) of principal components; of fewer than seven, two
    principal components.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    n = len(unit)
    few = min(_FIRST, *unit.shape)
    first = PCA(few, random_state=seed).fit_transform(unit) if n > 1 else np.zeros((n, 1))
    perplexity = min(_PERPLEXITY, (n - 1) / 3)
    if perplexity < 2 or few < 2:
        places = np.pad(first[:, :2], ((0, 0), (0, max(0, 2 - first.shape[1]))))
        how = "two principal components"
    else:
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        places = tsne.fit_transform(first.astype(np.float32))
        how = f"t-SNE (perplexity {perplexity:.3g}) of {few} principal components"
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    scaled: Floats = (places / (np.abs(places).max() or 1)).astype(np.float32)
    return scaled, how
