"""A store in which all that can be out of line is: samples that lack vectors, came late, are gone.

The first number of every vector is that of its sample, so that none can be taken for another's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedstore.kept import Kept
from embedstore.types import Recipe, Sample, Spec
from embedstore.writer import Writer

N = 240
GONE = (0, 17, 239)
PLAIN = Recipe(size=(6, 5), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
WHOLE = Spec("whole", "01", PLAIN, "pooled", 512)
LATE = Spec("vit:late@x", "02", Recipe(), "pooled", 7, "float16")


@dataclass(frozen=True)
class Made:
    """What was written: the samples, the vectors by sample number, who has late ones, pictures."""

    path: Path
    samples: list[Sample]
    vectors: dict[str, np.ndarray]
    late: list[int]
    pictures: dict[int, np.ndarray]

    def visible(self, numbers: range | list[int] = range(N)) -> list[int]:
        return [n for n in numbers if n not in GONE]


def sample(n: int) -> Sample:
    labels = {
        "density": "" if n % 10 == 3 else "ABCD"[n % 4] if n % 5 else "A",
        "age": "" if n == 5 else str(40 + n % 30),
        "score": f"{n / 8}",
        "site": f"0{n % 3}",
    }
    return Sample(
        f"i{n}",
        Path(f'films/{n}, "the" film.png'),
        group=f"p{n // 4}",
        exam=f"{n // 4}",
        view=("CC", "MLO")[n % 2],
        laterality="LR"[n // 2 % 2],
        split="test" if n // 4 % 5 == 0 else "train",
        labels=labels,
    )


def make(path: Path, gone: tuple[int, ...] = GONE) -> Made:
    """Write the store; `gone` are deleted in the end."""
    rng = np.random.default_rng(0)
    samples = [sample(n) for n in range(N)]
    vectors = {
        spec.backbone: rng.standard_normal((N, spec.dim)).astype(spec.dtype)
        for spec in (WHOLE, LATE)
    }
    for values in vectors.values():
        values[:, 0] = np.arange(N)
    late = rng.permutation([n for n in range(N) if n % 7]).tolist()
    pictures = {n: rng.integers(0, 256, (6, 5), dtype=np.uint8) for n in range(0, N, 3)}
    pictures |= {n: rng.integers(0, 65536, (6, 5, 3), dtype=np.uint16) for n in range(1, N, 30)}
    digests = rng.integers(0, 256, (N, 16), dtype=np.uint8)
    with Writer(path) as writer:
        writer.add_samples(samples)
        for spec, order in ((WHOLE, np.arange(N)), (LATE, np.array(late))):
            writer.add_spec(spec, {"device": "cpu", "precision": "float32"})
            writer.append(spec, order, vectors[spec.backbone][order], digests[order])
        kept = [Kept(digests[n].tobytes(), p, 0.0) for n, p in pictures.items()]
        writer.keep(PLAIN, np.array(list(pictures)), kept)
        if gone:
            writer.delete(np.array(gone))
        writer.commit()
    return Made(path, samples, vectors, late, pictures)
