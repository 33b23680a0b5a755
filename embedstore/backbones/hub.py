"""A model's files from the hub: out of its cache, else downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from embedstore.backbones.weights import explained


def hub_folder(hub_id: str, patterns: list[str]) -> Path:
    """Return a folder with the files of `hub_id` whose names match; asks the network last.

    Raises
    ------
    BackboneError
        Neither the cache has them nor can the hub be reached.
    """
    remedy = (
        "without internet, download that page's files elsewhere, copy the folder here, and give "
        "the folder as the backbone"
    )
    try:
        cached = snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True)
        return Path(cached)
    except OSError:
        pass
    with explained(f"{hub_id} is not in this machine's cache and cannot be downloaded", remedy):
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
