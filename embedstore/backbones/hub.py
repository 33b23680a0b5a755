"""A model's files from the hub: out of its cache, else downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from embedstore.errors import BackboneError


def hub_folder(hub_id: str, patterns: list[str]) -> Path:
    """Return a folder with the files of `hub_id` whose names match; asks the network last.

    Raises
    ------
    BackboneError
        Neither the cache has them nor can the hub be reached.
    """
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
    except OSError:
        pass
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise BackboneError(
            f"{hub_id} is not in this machine's cache and the hub cannot be reached "
            f"({type(error).__name__}); on a machine with internet run `embedstore backbones "
            f"bundle`, carry the folder here and give it as the backbone"
        ) from error
