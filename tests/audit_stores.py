"""Stores with one thing wrong, planted, and what each of their images says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from embedstore.kept import Kept
from embedstore.store import Failure
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

MADE = {"precision": "float32", "device": "cpu", "versions": {"embedstore": "0"}, "started": ""}


@dataclass
class Collection:
    """Images of patients; `vectors` (n, d), and lists with a value for each image."""

    vectors: np.ndarray
    patients: list[str]
    labels: dict[str, list[str]]
    columns: dict[str, list[str]] = field(default_factory=dict)
    content: list[str] = field(default_factory=list)
    pictures: list[np.ndarray] | None = None
    failures: int = 0

    def __post_init__(self) -> None:
        self.content = self.content or [f"content {i}" for i in range(len(self.vectors))]

    @property
    def ids(self) -> list[str]:
        return [f"image-{i:04d}" for i in range(len(self.vectors))]

    def with_copy(self, row: int, patient: str, label: str, noise: float = 0.01) -> Collection:
        """Add an image nearly the same as another, of another patient."""
        rng = np.random.default_rng(row)
        copy = self.vectors[row] + rng.normal(0, noise, self.vectors.shape[1])
        said = {n: [*v, label if n == "density" else v[row]] for n, v in self.labels.items()}
        return replace(
            self,
            vectors=np.vstack([self.vectors, copy]),
            patients=[*self.patients, patient],
            labels=said,
            columns={n: [*v, v[row]] for n, v in self.columns.items()},
            content=[*self.content, f"copy of {row}"],
            pictures=None,
        )

    def write(self, path: Path) -> Spec:
        spec = Spec("toy", "00", Recipe(), "pooled", self.vectors.shape[1])
        with Writer(path) as writer:
            writer.add_samples([self._sample(i) for i in range(len(self.ids))])
            writer.add_samples([Sample(f"bad-{i}", Path("bad.png")) for i in range(self.failures)])
            writer.add_spec(spec, MADE)
            rows = np.arange(len(self.ids))
            digests = [hashlib.sha256(c.encode()).digest()[:16] for c in self.content]
            stacked = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)
            stat = np.zeros((len(rows), 2), dtype=np.int64)
            cut = np.zeros(len(rows), np.float32)
            writer.append(spec, rows, self.vectors.astype(np.float32), stacked, cut, stat)
            if self.pictures:
                both = zip(digests, self.pictures, strict=True)
                writer.keep(spec.recipe, rows, [Kept(d, p, 0.0) for d, p in both])
            failed = range(self.failures)
            writer.add_failures([Failure(f"bad-{i}", "", "read", "bad", spec.key) for i in failed])
            writer.commit()
        return spec

    def _sample(self, i: int) -> Sample:
        columns = {name: values[i] for name, values in self.columns.items()}
        labels = {name: values[i] for name, values in self.labels.items()}
        ident = self.ids[i]
        return Sample(ident, Path(f"{ident}.png"), self.patients[i], **columns, labels=labels)


def clean(
    patients: int = 60, each: int = 2, d: int = 16, seed: int = 0, signal: float = 3
) -> Collection:
    """Nothing wrong: a label by patient, which the first two numbers tell."""
    rng = np.random.default_rng(seed)
    n = patients * each
    of = np.repeat(np.arange(patients), each)
    label = of % 3
    vectors = rng.normal(size=(n, d)) + 0.3 * rng.normal(size=(patients, d))[of]
    vectors[:, :2] += signal * np.stack([np.cos(label * 2.1), np.sin(label * 2.1)], axis=1)
    return Collection(
        vectors,
        [f"patient-{p:04d}" for p in of.tolist()],
        {"density": ["ABC"[v] for v in label.tolist()]},
    )


def with_view(made: Collection) -> Collection:
    """Add a view of each image, which a number of its own tells."""
    view = np.arange(len(made.vectors)) % 2
    vectors = made.vectors.copy()
    vectors[:, 2] += 4 * view
    named = [("CC", "MLO")[v] for v in view.tolist()]
    return replace(made, vectors=vectors, columns={**made.columns, "view": named})


def with_vendor(made: Collection, agrees: float, seed: int = 1) -> Collection:
    """Add a vendor by patient, which three numbers tell; a share of patients have their label's."""
    rng = np.random.default_rng(seed)
    of = {p: i for i, p in enumerate(dict.fromkeys(made.patients))}
    random, coin = rng.integers(0, 3, len(of)), rng.random(len(of))
    numbers = ["ABC".index(v) for v in made.labels["density"]]
    vendor = np.array(
        [
            n if coin[of[p]] < agrees else random[of[p]]
            for p, n in zip(made.patients, numbers, strict=True)
        ]
    )
    vectors = made.vectors.copy()
    vectors[:, 3:6] += 4 * np.eye(3)[vendor]
    named = [("Acme", "Beta", "Cyan")[v] for v in vendor.tolist()]
    return replace(made, vectors=vectors, labels={**made.labels, "vendor": named})
