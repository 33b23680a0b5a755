"""What can go wrong, as a tree.

::

    EmbedstoreError              one line for the user; exit code 1
    ├── UsageError               the request itself is wrong; exit code 2
    │   ├── ManifestError        the table or folder of images is wrong
    │   ├── UnknownName          no probe or backbone of that name
    │   └── WrongParameter       a head's parameter cannot have that value
    ├── ImageError               one image cannot be used (becomes a row of failures)
    ├── BackboneError            weights or their configuration cannot be used
    ├── DataError                labels, groups or vectors do not fit the task
    └── StoreError               the store on disk
        ├── StoreBusy            another process is writing
        └── SpecMismatch         vectors of two Specs were about to meet
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class EmbedstoreError(Exception):
    """Base of every error embedstore raises on purpose; the text is one line, made to be shown."""

    exit_code = 1


class UsageError(EmbedstoreError):
    """The request is wrong: an unknown option value, a missing column, a bad combination."""

    exit_code = 2


class ManifestError(UsageError):
    """The manifest cannot be used; `problems` lists each finding on a line of its own."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems


class UnknownName(UsageError):
    """No plug-in of that name is installed."""


class WrongParameter(UsageError, ValueError):
    """A head's parameter cannot have that value; a ValueError too, as scikit-learn has it."""


class ImageError(EmbedstoreError):
    """One image cannot be used; `stage` is where it failed: read, decode, preprocess or encode."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Cross process borders whole (the default keeps only the message)."""
        return type(self), (self.stage, self.reason)


class BackboneError(EmbedstoreError):
    """A backbone's weights, configuration or tokenizer cannot be used."""


class DataError(EmbedstoreError):
    """Labels, groups or vectors do not allow what was asked of them."""


class StoreError(EmbedstoreError):
    """The store cannot be opened, read or written."""


class StoreBusy(StoreError):
    """Another process holds the store's write lock."""


class SpecMismatch(StoreError):
    """Vectors of two Specs were about to be mixed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'NAME'?`` where a known name is close to a wrong one, else ``""``."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
