"""What is asked and answered, as the API's documentation has it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Id = Annotated[str, Field(max_length=1000)]
Sentence = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]


class Problem(BaseModel):
    """What is wrong, in one line."""

    error: str


class Asked(BaseModel):
    """What every search may say."""

    model_config = ConfigDict(extra="forbid")

    backbone: str = Field("", max_length=200, description="Name or key; the first by default.")
    k: int = Field(12, ge=1, le=200, description="How many cases.")
    where: str = Field("", max_length=10_000, description="A filter: view == 'MLO' and age >= 50")
    per: Literal["image", "exam", "patient"] = "image"
    same_patient: bool = Field(False, description="Let images of the query's patient be found.")
    label: str = Field("", max_length=200, description="The label that is marked in the cases.")


class Search(Asked):
    """Images of the store, or sentences, to start from: one of the two."""

    ids: list[Id] = Field([], max_length=50, description="Several make one query.")
    unlike: list[Id] = Field([], max_length=50, description="What no answer shall be like.")
    text: list[Sentence] = Field([], max_length=20, description="Several count as their mean.")


class SearchByUpload(Asked):
    """What goes with an image file, which is the body."""

    patient: str = Field("", max_length=200, description="Whose image it is, to be left out.")


class Case(BaseModel):
    """One image of the store. `picture` says why there is none, "" where there is one."""

    id: str
    patient: str
    exam: str
    view: str
    laterality: str
    labels: dict[str, str]
    picture: str
    similarity: float | None = None
    agrees: bool | None = None


class Answer(BaseModel):
    """The cases found, most alike first.

    `asked` are the images of the store that were asked for; `picture` is an upload as the model saw
    it, a PNG in a ``data:`` address; `summary` compares labels with chance.
    """

    commit: int
    backbone: str
    asked: list[Case]
    picture: str = ""
    cases: list[Case]
    summary: list[str]
    notes: list[str]
    index: str
    milliseconds: float


class Backbone(BaseModel):
    """A set of vectors."""

    key: str
    name: str
    recipe: str
    dim: int
    vectors: int
    text: bool
    notes: list[str]


class Column(BaseModel):
    """A column, and its values where they are few, with how many images have each."""

    name: str
    label: bool
    numbers: bool
    values: dict[str, int] | None


class ProbeScore(BaseModel):
    """A score on patients that the probe had not seen."""

    name: str
    title: str
    value: float | None
    low: float | None
    high: float | None
    floor: float | None


class Probe(BaseModel):
    """A saved probe."""

    name: str
    head: str
    label: str
    classes: list[str]
    backbone: str
    scores: list[ProbeScore]
    notes: list[str]


class StoreInfo(BaseModel):
    """What is served."""

    name: str
    commit: int
    samples: int
    backbones: list[Backbone]
    columns: list[Column]
    probes: list[Probe]
    max_upload: int


class Sample(BaseModel):
    """All that the table says of an image but where its file lies."""

    case: Case
    columns: dict[str, str]


class AskedProbe(BaseModel):
    """A probe, and the number of cases to show for and against its answer."""

    model_config = ConfigDict(extra="forbid")

    probe: str = Field(max_length=200)
    k: int = Field(6, ge=1, le=50)


class Predict(AskedProbe):
    """An image of the store for a probe."""

    id: Id


class PredictUpload(AskedProbe):
    """What goes with an image file, which is the body."""

    patient: str = Field("", max_length=200, description="Whose image it is, to be left out.")


class Prediction(BaseModel):
    """What a probe says, the nearest cases of that class, and the nearest of any other."""

    commit: int
    probe: str
    label: str
    answer: str
    probabilities: dict[str, float]
    known: str
    asked: list[Case]
    picture: str = ""
    supporting: list[Case]
    opposing: list[Case]
    notes: list[str]


class Divide(BaseModel):
    """Two sentences; every image is nearer to one of them."""

    model_config = ConfigDict(extra="forbid")

    a: Sentence
    b: Sentence
    backbone: str = Field("", max_length=200)
    where: str = Field("", max_length=10_000)
    label: str = Field("", max_length=200, description="A label to count the two sides by.")


class Share(BaseModel):
    """Images of one value of the label, by side; `bars` counts them by margin."""

    value: str
    a: int
    b: int
    bars: list[int]


class Division(BaseModel):
    """How the store divides. The margin is cosine to `a` less cosine to `b`; `edges` bound bars."""

    commit: int
    backbone: str
    a: int
    b: int
    edges: list[float]
    shares: list[Share]
    most_a: list[Case]
    undecided: list[Case]
    most_b: list[Case]
    notes: list[str]


class Map(BaseModel):
    """Images as points of the plane, alike ones close together; made in the background."""

    state: Literal["working", "ready", "failed"]
    commit: int
    backbone: str
    method: str = ""
    label: str = ""
    ids: list[str] = []
    x: list[float] = []
    y: list[float] = []
    values: list[str] = []
    views: list[str] = []
    notes: list[str] = []
