"""Sentences about a mammogram: density, view, side and film label, in many wordings.

Density is worded after the ACR BI-RADS Atlas, 5th ed., 2013. A sentence states some of four facts
and is silent on the others; `FACTS` is their order. Wordings of `HELD_OUT` and its templates are
never drawn in training, so that they measure what the text side has learnt beyond its sentences.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedstore.phantoms import DENSITIES

__all__ = ["FACTS", "Sentence", "class_texts", "draw", "every_text"]

FACTS = ("density", "view", "laterality", "label")
SILENT = -1
"""The code of a fact that a sentence does not mention."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text and the facts it states, (4,) codes in the order of `FACTS`, `SILENT` where none.

    density 0 to 3 for A to D; view 0 CC, 1 MLO; laterality 0 L, 1 R; label 0 absent, 1 visible.
    """

    text: str
    facts: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Wording:
    """How one density is put: adjectives stand after "are" or before a noun, nouns alone."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]


TRAINED = {
    "A": Wording(
        (
            "almost entirely fatty",
            "almost all fat",
            "predominantly fatty",
            "mostly fatty",
            "fatty",
            "entirely fatty",
            "largely fatty",
            "composed almost entirely of fat",
            "replaced by fat",
            "radiolucent",
        ),
        (
            "fatty predominance",
            "almost only fat",
            "mainly fatty tissue",
            "very little fibroglandular tissue",
            "hardly any dense tissue",
            "almost no glandular tissue",
            "BI-RADS density a",
            "density category a",
            "a fatty breast pattern",
        ),
    ),
    "B": Wording(
        (
            "mostly fatty with scattered density",
            "partly fatty with scattered fibroglandular tissue",
            "fatty with scattered dense areas",
            "mildly dense",
            "a little dense",
            "fatty with some islands of dense tissue",
            "of scattered density",
            "characterized by scattered areas of density",
        ),
        (
            "scattered areas of fibroglandular density",
            "scattered fibroglandular densities",
            "scattered density",
            "scattered islands of glandular tissue",
            "some scattered dense tissue in fat",
            "scattered areas of pattern density",
            "a few patches of dense tissue",
            "scattered glandular tissue",
            "BI-RADS density b",
            "density category b",
        ),
    ),
    "C": Wording(
        (
            "heterogeneously dense",
            "heterogeneously dense, which may obscure small masses",
            "unevenly dense",
            "moderately dense",
            "dense in large parts",
            "heterogeneous and dense",
            "inhomogeneously dense",
            "dense in more than half",
        ),
        (
            "heterogeneous density",
            "heterogeneously dense tissue",
            "heterogeneous fibroglandular tissue which may obscure small masses",
            "large areas of dense tissue with fat between",
            "more dense tissue than fat",
            "considerable fibroglandular density",
            "inhomogeneous dense tissue",
            "a heterogeneously dense pattern",
            "BI-RADS density c",
            "density category c",
        ),
    ),
    "D": Wording(
        (
            "extremely dense",
            "extremely dense, which lowers the sensitivity of mammography",
            "very dense",
            "exceedingly dense",
            "uniformly dense",
            "dense throughout",
            "almost completely dense",
            "markedly dense",
            "entirely dense",
        ),
        (
            "extreme density",
            "extremely dense tissue",
            "dense tissue throughout",
            "almost only dense tissue",
            "very high density",
            "almost no fat",
            "extremely dense fibroglandular tissue",
            "uniformly dense tissue that lowers sensitivity",
            "BI-RADS density d",
            "density category d",
        ),
    ),
}
HELD_OUT = {
    "A": Wording(
        ("nearly all fatty", "made up almost entirely of fat", "almost completely fatty"),
        ("predominantly fat", "a mainly fatty pattern", "little glandular tissue and mostly fat"),
    ),
    "B": Wording(
        ("fatty with scattered glandular densities", "composed of fat with scattered density"),
        ("scattered areas of dense tissue", "some scattered fibroglandular tissue"),
    ),
    "C": Wording(
        ("heterogeneously and moderately dense", "dense in most parts but not uniformly"),
        ("heterogeneous dense tissue that may hide masses", "uneven areas of dense tissue"),
    ),
    "D": Wording(
        ("extremely and uniformly dense", "completely dense", "exceptionally dense throughout"),
        ("extremely high density", "very dense fibroglandular tissue, lowering sensitivity"),
    ),
}

_OF_ADJECTIVE = (
    "the breasts are {}",
    "the breast is {}",
    "the breast tissue is {}",
    "breast tissue that is {}",
    "the parenchyma is {}",
    "{}",
    "a mammogram: the breasts are {}",
    "mammogram of a breast which is {}",
    "density: {}",
    "this breast is {}",
)
_OF_NOUN = (
    "there is {}",
    "there are {}",
    "{}",
    "the mammogram shows {}",
    "a breast with {}",
    "the breasts show {}",
    "mammogram with {}",
    "breast composition: {}",
    "the breast is {}",
    "findings: {}",
)
_NEW_OF_ADJECTIVE = (
    "on this film the breasts appear {}",
    "the image shows a breast that is {}",
    "both breasts are {}",
)
_NEW_OF_NOUN = (
    "this image shows {}",
    "the film demonstrates {}",
    "the breast composition is {}",
)
_VIEW = (
    ("CC view", "craniocaudal view", "cranio-caudal projection", "a CC mammogram", "view: CC"),
    (
        "MLO view",
        "mediolateral oblique view",
        "oblique projection",
        "an MLO mammogram",
        "view: MLO",
    ),
)
_SIDE = (
    ("left breast", "the left side", "laterality: left", "left mammogram", "side: L"),
    ("right breast", "the right side", "laterality: right", "right mammogram", "side: R"),
)
_LABEL = (
    ("no film label", "without a marker", "no label is visible", "the film has no side marker"),
    ("a film label is visible", "with a lead marker", "with a label", "the film has a side marker"),
)
_OTHERS = (_VIEW, _SIDE, _LABEL)
_RATES = (0.35, 0.25, 0.2)  # how often view, side and label are mentioned
_DENSITY_RATE = 0.93
_JOINTS = (", ", ". ", "; ", " - ")


def draw(rng: np.random.Generator) -> Sentence:
    """Draw a training sentence; it states at least one fact."""
    facts = [SILENT] * 4
    parts: list[str] = []
    for k, rate in enumerate(_RATES, start=1):
        if rng.random() < rate:
            facts[k] = int(rng.integers(2))
            parts.append(_pick(rng, _OTHERS[k - 1][facts[k]]))
    if not parts or rng.random() < _DENSITY_RATE:
        facts[0] = int(rng.integers(4))
        parts.insert(int(rng.integers(len(parts) + 1)), _density(rng, DENSITIES[facts[0]]))
    text = _pick(rng, _JOINTS).join(parts) + ("." if rng.random() < 0.4 else "")
    return Sentence(text, (facts[0], facts[1], facts[2], facts[3]))


def class_texts(density: str, held_out: bool = False) -> list[str]:
    """Word one density in every way the generator has, or in every way kept from training."""
    wording = (HELD_OUT if held_out else TRAINED)[density]
    of_adjective = _NEW_OF_ADJECTIVE if held_out else _OF_ADJECTIVE
    of_noun = _NEW_OF_NOUN if held_out else _OF_NOUN
    return [t.format(a) for t in of_adjective for a in wording.adjectives] + [
        t.format(n) for t in of_noun for n in wording.nouns
    ]


def _density(rng: np.random.Generator, density: str) -> str:
    wording = TRAINED[density]
    if rng.random() < 0.5:
        return _pick(rng, _OF_ADJECTIVE).format(_pick(rng, wording.adjectives))
    return _pick(rng, _OF_NOUN).format(_pick(rng, wording.nouns))


def _pick(rng: np.random.Generator, among: tuple[str, ...]) -> str:
    return among[int(rng.integers(len(among)))]


def every_text() -> list[str]:
    """List every wording there is, held-out ones too: what the tokenizer must be able to spell."""
    parts = [p for pair in _OTHERS for some in pair for p in some]
    return parts + [t for held in (False, True) for d in DENSITIES for t in class_texts(d, held)]
