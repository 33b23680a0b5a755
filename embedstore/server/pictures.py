"""Pictures of samples as the model saw them, as PNG; by id, never by a path that is asked for."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from PIL import Image

from embedstore.report.sheet import shown
from embedstore.seen import seen
from embedstore.server.problems import Missing
from embedstore.server.snapshot import Snapshot
from embedstore.server.together import Together
from embedstore.types import Pixels, Spec

KEPT = 512
"""Pictures that stay in memory."""

NONE_KEPT = "the store keeps no picture of it (extract --keep-pixels)"
NO_VECTOR = "there is no vector of it"

_Key = tuple[int, str, int]


class Pictures:
    """PNGs of a store's samples.

    Parameters
    ----------
    read_files
        Where the store keeps no picture, make it again of the file that the store names, if that
        still holds the bytes it held then.
    """

    def __init__(self, read_files: bool) -> None:
        self._read_files = read_files
        self._lock = threading.Lock()
        self._made: OrderedDict[_Key, bytes] = OrderedDict()
        self._again = Together[tuple[Snapshot, Spec], int, Pixels | str](_seen, most=16)

    def png(self, snapshot: Snapshot, spec: Spec, row: int) -> bytes:
        """Return one picture, by the raw row of its sample.

        Raises
        ------
        Missing
            There is none, saying why.
        """
        key = snapshot.store.commit, spec.key, row
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        picture = self._picture(snapshot, spec, row)
        if isinstance(picture, str):
            raise Missing(f"no picture: {picture}")
        made = png(picture)
        with self._lock:
            self._made[key] = made
            while len(self._made) > KEPT:
                self._made.popitem(last=False)
        return made

    def why_none(self, snapshot: Snapshot, spec: Spec, rows: Sequence[int]) -> list[str]:
        """Return for each sample why there is no picture, "" where there should be one."""
        digests = _digests(snapshot, spec, rows)
        if self._read_files:
            return ["" if d else NO_VECTOR for d in digests]
        there = snapshot.kept(spec.recipe)
        known = snapshot.remembered(
            f"kept {spec.recipe.pixel_key}", lambda: set(there.rows.tolist())
        )
        return [
            NO_VECTOR if not d else "" if row in known else NONE_KEPT
            for row, d in zip(rows, digests, strict=True)
        ]

    def _picture(self, snapshot: Snapshot, spec: Spec, row: int) -> Pixels | str:
        (why,) = self.why_none(snapshot, spec, [row])
        if why:
            return why
        if self._read_files:
            return self._again.ask((snapshot, spec), row)
        (kept,) = snapshot.kept(spec.recipe).read([row])
        if kept.digest != _digests(snapshot, spec, [row])[0]:
            return "the picture kept is of another version of the file"
        return on_screen(kept.picture)


def png(picture: Pixels) -> bytes:
    """Encode (h, w) or (h, w, 3) uint8."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(out, "PNG", compress_level=3)
    return out.getvalue()


def on_screen(picture: Pixels) -> Pixels:
    """Put a recipe's grey levels, of 8 or 16 bits, on 0..255."""
    if picture.dtype == np.uint8:
        return picture
    return shown(picture, 0, float(np.iinfo(picture.dtype).max))


def _digests(snapshot: Snapshot, spec: Spec, rows: Sequence[int]) -> list[bytes]:
    """Return the digest of the file each sample's vector was made of, b"" where there is none."""
    places = snapshot.searcher(spec).place_of[list(rows)]
    there = places >= 0
    found = snapshot.store.array(f"embeddings/{spec.key}/digests", places[there])
    digests = iter(map(bytes, found))
    return [next(digests) if is_there else b"" for is_there in there]


def _seen(kind: tuple[Snapshot, Spec], rows: Sequence[int]) -> list[Pixels | str]:
    snapshot, spec = kind
    return [
        p if not isinstance(p, str) else _without_path(p) for p in seen(snapshot.store, spec, rows)
    ]


def _without_path(reason: str) -> str:
    return reason.partition(": ")[0] if "/" in reason or "\\" in reason else reason
