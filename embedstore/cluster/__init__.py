"""Extraction on the nodes of a Ray cluster.

Workers hold the backbones and embed one batch after the other; the process that asked for it, the
driver, is the store's one writer, as without a cluster. No worker writes: batches come back in any
order and are appended in that of the images, so the store is the one a single process makes. Which
nodes there are, where a worker runs and when it has died is Ray's business; a batch whose worker
died is given to another.

Needs the extra ``embedstore[ray]``.
"""
