"""What a server is told when it starts."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """How one store is served.

    Attributes
    ----------
    names
        Host names that a request may be addressed to, besides those of the loopback.
    exposed
        Whether other machines may ask; then any address in numbers is taken as a host name, too.
    probes
        Folders of saved probes, by the name they are shown under.
    models
        ``NAME[@WEIGHTS]`` or folder of each backbone that is not to be found by its own name.
    max_upload
        Bytes.
    read_files
        Read the image files that the store names where it keeps no pictures.
    """

    store: Path
    host: str = "127.0.0.1"
    port: int = 0
    names: frozenset[str] = frozenset()
    exposed: bool = False
    probes: Mapping[str, Path] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"
    max_upload: int = 64 * MIB
    read_files: bool = False
    verify: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def cookie(self) -> str:
        """The cookie's name; cookies are not kept apart by port, so that the name has to be."""
        return f"embedstore-{self.port}"

    @property
    def address(self) -> str:
        """What to open in a browser; the part after # is never sent to a server or proxy."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/#token={self.token}"
