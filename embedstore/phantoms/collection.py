"""Which films a collection holds, and the random streams they are drawn from."""

from dataclasses import dataclass

import numpy as np

DENSITIES = ("A", "B", "C", "D")
VIEWS = (("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO"))
COARSE, FINE = 256, 512  # the two grids films are computed on; other sizes are resampled


@dataclass(frozen=True, slots=True)
class Film:
    """One film: everything needed to render it again.

    Attributes
    ----------
    patient : str
        Patient id, ``p0000`` onwards.
    laterality, view : str
        ``L`` or ``R``; ``CC`` or ``MLO``.
    density : str
        One of `DENSITIES`.
    labelled : bool
        Whether a film label (side and view in lead letters) is visible.
    seed : tuple of int
        The collection's seed and the patient's number in it.
    """

    patient: str
    laterality: str
    view: str
    density: str
    labelled: bool
    seed: tuple[int, int]


def films(patients: int, seed: int = 0, label_rate: float = 0.5) -> list[Film]:
    """List four films for each of a number of patients.

    Parameters
    ----------
    patients : int
        Number of patients, at least 1.
    seed : int
        Seed of the collection, at least 0.
    label_rate : float
        Probability that a film shows a label, 0 to 1.

    Returns
    -------
    list of Film
        ``4 * patients`` films, in the order of `VIEWS` for each patient.
    """
    if patients < 1:
        raise ValueError(f"patients must be at least 1, got {patients}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if not 0.0 <= label_rate <= 1.0:
        raise ValueError(f"label_rate must lie in 0..1, got {label_rate}")
    rng = np.random.default_rng(seed)
    densities = rng.permutation([DENSITIES[i % 4] for i in range(patients)])
    labelled = rng.random((patients, 4)) < label_rate
    return [
        Film(f"p{i:04d}", *VIEWS[j], str(densities[i]), bool(labelled[i, j]), (seed, i))
        for i in range(patients)
        for j in range(4)
    ]


def stream(film: Film, topic: int) -> np.random.Generator:
    """Return the film's own random stream for one topic, so topics cannot disturb each other."""
    return np.random.default_rng([*film.seed, VIEWS.index((film.laterality, film.view)), topic])
