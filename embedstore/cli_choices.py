"""What several commands let choose: backbones of a store, and who is tested."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedstore.errors import DataError, UsageError

if TYPE_CHECKING:
    from embedstore.split_files import SavedSplit
    from embedstore.store import Store
    from embedstore.types import Spec


def specs_of(store: Store, names: list[str] | None) -> list[Spec]:
    """Return the Specs of these backbones, or all, that have vectors.

    Raises
    ------
    DataError
        There are none.
    """
    some = None if names in (None, [], ["all"]) else names
    named = [store.find(name) for name in some] if some else store.specs.values()
    specs = [s for s in dict.fromkeys(named) if store.count(s)]
    if not specs:
        which = f" of {', '.join(some)}" if some else ""
        raise DataError(f"{store.path}: holds no vectors{which} yet; run `embedstore extract`")
    return specs


def one_spec(store: Store, name: str, with_text: bool = False) -> Spec:
    """Return the one Spec there is, or that is named; of several, the one with a text side.

    Raises
    ------
    DataError
        There are no vectors.
    UsageError
        There are several.
    """
    specs = specs_of(store, [name] if name else None)
    if with_text:
        specs = [s for s in specs if s.text] or specs[:1]  # which `text_side` then refuses
    if len(specs) > 1:
        names = ", ".join(f"{s.backbone} ({s.key})" for s in specs)
        raise UsageError(f"{store.path} has embeddings of {names}; choose one with --backbone")
    return specs[0]


def split_of(
    given: str, folds: int | None, repeats: int | None, test_share: float
) -> SavedSplit | str | None:
    """Take --split, which leaves nothing to --folds, --repeats and --test-share."""
    if folds and test_share:
        raise UsageError("give --folds or --test-share, not both")
    if given and (folds or repeats or test_share):
        raise UsageError(
            "--split says who is tested: leave --test-share, --folds and --repeats out"
        )
    return split_from(given)


def split_from(given: str) -> SavedSplit | str | None:
    """Load the split of a file, or return the column it is in; None where none is given."""
    from embedstore.split_files import load_split

    if given == "column" or given.startswith("column:"):
        return given.partition(":")[2] or "split"
    return load_split(Path(given)) if given else None
