"""All that decides a fine-tune's result, and the two named ways of setting it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from embedstore.errors import UsageError

Objective = Literal["cross-entropy", "ordinal", "contrastive"]
Schedule = Literal["cosine", "plateau", "constant"]
Start = Literal["probe", "random"]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a backbone is fine-tuned; runs of other settings are other runs.

    Attributes
    ----------
    objective
        "cross-entropy" of a linear layer; "ordinal": proportional odds (McCullagh 1980), for
        grades; "contrastive": images against the sentences of their classes, for image-text
        models, as CLIP was trained (FLYP, Goyal et al. 2023, arXiv 2212.00638).
    start
        "probe" starts from the weights of the fitted frozen probe (LP-FT, Kumar et al. 2022, arXiv
        2202.10054), "random" from small random ones. Contrastive starts from the sentences.
    batch
        Images a step learns from, whatever the memory: see `micro_batch`.
    micro_batch
        Images at a time on the device, summed up to `batch`; 0: the batch, less where memory
        does not suffice.
    rate, decay
        AdamW's learning rate, of the last layer, and weight decay.
    layer_decay
        Each layer below learns at this share of the rate of the one above (BEiT, Bao et al. 2021);
        1: all alike.
    warm_up
        Share of the steps in which the rate rises.
    schedule
        "cosine" falls to nothing in the last step; "plateau" halves the rate after 50 epochs
        without improvement; "constant".
    validation
        Share of what may be learnt from, by patient, that says which epoch was best; 0: the last
        one is taken. A split's own validation side is used where it has one.
    patience
        Epochs without improvement that end it; 0: none do.
    label_smoothing, class_weight, mixup
        Szegedy et al. 2016; "balanced" or ""; the alpha of Zhang et al. 2018, 0 without.
    ema
        Decay of an exponential average of the weights, which is then what is judged; 0 without.
    freeze
        So many stages stay as they are, the stem being the first.
    lora
        The rank of low-rank adapters (Hu et al. 2021) in place of the weights; 0 without.
    tune_text
        Let the text side learn, too (contrastive).
    augment
        "film" moves, turns and exposes pictures a little (`augment.film`), "none" does not.
    clip
        The length a gradient is cut to; 0: it is not.
    seed
        Of the order, the augmentation and whatever else is drawn.
    """

    objective: Objective = "cross-entropy"
    start: Start = "probe"
    epochs: int = 30
    batch: int = 32
    micro_batch: int = 0
    rate: float = 3e-4
    decay: float = 0.05
    layer_decay: float = 0.75
    warm_up: float = 0.1
    schedule: Schedule = "cosine"
    validation: float = 0.15
    patience: int = 10
    label_smoothing: float = 0.1
    class_weight: Literal["", "balanced"] = ""
    mixup: float = 0.0
    ema: float = 0.0
    freeze: int = 0
    lora: int = 0
    tune_text: bool = False
    augment: Literal["film", "none"] = "film"
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        UsageError
            Naming the setting.
        """
        for name, least, most in _RANGES:
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(f"{name} is {value}; give {least:g} to {most:g}")
        for name, known in _WORDS.items():
            if (value := getattr(self, name)) not in known:
                raise UsageError(
                    f"{name} is {value!r}; give {', '.join(w or 'none' for w in known)}"
                )
        if self.tune_text and self.objective != "contrastive":
            raise UsageError("tune_text goes with the objective contrastive")
        if self.objective == "contrastive" and self.mixup:
            raise UsageError("mixup has no sentence; leave it out with the objective contrastive")
        if self.lora and self.freeze:
            raise UsageError("lora leaves every weight as it is; leave freeze out")
        if self.objective == "contrastive":
            if self.class_weight:
                raise UsageError("class_weight goes with the other objectives than contrastive")
            object.__setattr__(self, "label_smoothing", 0.0)  # sentences are true or not
        if self.schedule == "plateau" and not self.validation:
            raise UsageError("a plateau is of the validation loss: give validation a share")
        if self.patience and not self.validation:
            # nothing says what an improvement is
            object.__setattr__(self, "patience", 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON keeps them."""
        return asdict(self)


_WORDS = {name: get_args(kind) for name, kind in get_type_hints(Settings).items() if get_args(kind)}

_RANGES = (
    ("epochs", 1, 100_000),
    ("batch", 1, 1_000_000),
    ("micro_batch", 0, 1_000_000),
    ("rate", 1e-9, 10.0),
    ("decay", 0.0, 10.0),
    ("layer_decay", 0.01, 1.0),
    ("warm_up", 0.0, 1.0),
    ("validation", 0.0, 0.5),
    ("patience", 0, 100_000),
    ("label_smoothing", 0.0, 0.9),
    ("mixup", 0.0, 10.0),
    ("ema", 0.0, 0.99999),
    ("freeze", 0, 1000),
    ("lora", 0, 1024),
    ("clip", 0.0, 1e6),
    ("seed", 0, 2**31 - 1),
)

RECIPES = {
    "default": Settings(),
    # arXiv 2506.13964 as its code does it; its images go unnormalised and its split is by image
    "molina2025": Settings(
        start="random",
        epochs=200,
        batch=64,
        rate=1e-4,
        decay=0.01,
        layer_decay=1.0,
        warm_up=0.0,
        schedule="plateau",
        patience=30,
        label_smoothing=0.0,
        augment="none",
        clip=0.0,
    ),
}
"""Named settings: ours, and the study's."""


def settings_of(recipe: str, given: Sequence[str] = (), **some: Any) -> Settings:
    """Return a named recipe's settings with others on wish: ``NAME=VALUE`` each, or by keyword.

    Raises
    ------
    UsageError
        There is no such recipe or setting, or a value does not fit.
    """
    if recipe not in RECIPES:
        raise UsageError(f"--recipe {recipe}: known are {', '.join(RECIPES)}")
    kinds = {f.name: type(getattr(Settings(), f.name)) for f in fields(Settings)}
    told = dict(some)
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set {text}: give NAME=VALUE")
        if name not in kinds:
            raise UsageError(f"--set: no setting {name!r}; there are {', '.join(kinds)}")
        value = value.strip()
        if value == "none" and "" in _WORDS.get(name, ()):
            value = ""
        told[name] = _value(name, value, kinds[name])
    return replace(RECIPES[recipe], **told)


def _value(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise UsageError(f"--set {name}={text}: give true or false")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"--set {name}={text}: give {what}") from error
