"""All that answers need, in one place, as long as the server is there."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence

import numpy as np
from starlette.requests import Request

from embedstore.errors import EmbedstoreError, UsageError
from embedstore.saved import SavedProbe
from embedstore.server import schemas
from embedstore.server.asking import Question, answer, of_samples, of_upload, searches
from embedstore.server.cases import cases
from embedstore.server.dividing import divide
from embedstore.server.maps import Maps
from embedstore.server.models import Models
from embedstore.server.pictures import Pictures, on_screen
from embedstore.server.pictures import png as as_png
from embedstore.server.predicting import Desk, described, load_probes
from embedstore.server.problems import Missing
from embedstore.server.reading import Read
from embedstore.server.settings import Settings
from embedstore.server.snapshot import Latest, Snapshot
from embedstore.server.uploads import Uploads
from embedstore.types import Floats, Pixels, Spec, unit_rows

VALUES = 50
"""Different values, up to which a column's are listed."""


class Service:
    """The store, its models, and what is made of them.

    Raises
    ------
    StoreError
        There is no store.
    UsageError
        A probe cannot be used with it, or a model is of a backbone that it has no vectors of.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.latest = Latest(settings.store, settings.verify)
        store = self.latest.snapshot().store
        _refuse_others(settings.models, [s.backbone for s in store.specs.values()])
        self.probes = load_probes(settings.probes, store)
        self.models = Models(settings.models, settings.device)
        self.pictures, self.searches, self.maps = (
            Pictures(settings.read_files),
            searches(),
            Maps(),
        )
        self.uploads = Uploads(settings.max_upload)

    def close(self) -> None:
        """End what runs besides, and remove what was for a moment."""
        self.models.close()
        self.maps.close()
        self.uploads.close()

    def about(self) -> schemas.StoreInfo:
        """Say what is served."""
        snapshot = self.latest.snapshot()
        return schemas.StoreInfo(
            name=snapshot.store.path.name,
            commit=snapshot.store.commit,
            samples=len(snapshot.store),
            backbones=[_backbone(snapshot, s) for s in snapshot.store.specs.values()],
            columns=snapshot.remembered("columns", lambda: _columns(snapshot)),
            probes=[described(name, probe) for name, probe in self.probes.items()],
            max_upload=self.settings.max_upload,
        )

    async def search(self, asked: schemas.Search) -> schemas.Answer:
        """Search by samples or by sentences."""
        if bool(asked.ids) == bool(asked.text):
            raise UsageError("give ids or text to search for, one of the two")
        if asked.unlike and not asked.ids:
            raise UsageError("unlike goes with ids")
        snapshot = self.latest.snapshot()
        spec = snapshot.spec(asked.backbone, bool(asked.text))
        if asked.ids:
            return await asyncio.to_thread(self._by_ids, snapshot, spec, asked)
        vectors = await asyncio.wrap_future(self.models.text(spec, asked.text))
        question = Question(unit_rows(vectors.mean(axis=0)[None])[0], np.empty(0, np.intp))
        return await asyncio.to_thread(self._answer, snapshot, spec, question, asked)

    def _by_ids(self, snapshot: Snapshot, spec: Spec, asked: schemas.Search) -> schemas.Answer:
        for sample in (*asked.ids, *asked.unlike):
            self.row(snapshot, sample)
        question = of_samples(snapshot.searcher(spec), asked.ids, asked.unlike)
        return self._answer(snapshot, spec, question, asked)

    def _answer(
        self, snapshot: Snapshot, spec: Spec, question: Question, how: schemas.Asked
    ) -> schemas.Answer:
        return answer(snapshot, spec, self.searches, self.pictures, question, how)

    async def search_upload(
        self, request: Request, asked: schemas.SearchByUpload
    ) -> schemas.Answer:
        """Search by an image file."""
        snapshot = self.latest.snapshot()
        spec = snapshot.spec(asked.backbone)
        read, vector = await self._uploaded(request, snapshot, spec)

        def work() -> schemas.Answer:
            question = of_upload(snapshot, spec, read, vector, asked.patient, asked.same_patient)
            return self._answer(snapshot, spec, question, asked)

        found = await asyncio.to_thread(work)
        return found.model_copy(update={"picture": _data(read.picture)})

    async def _uploaded(
        self, request: Request, snapshot: Snapshot, spec: Spec
    ) -> tuple[Read, Floats]:
        read = await self.uploads.read(request, spec.recipe)
        precision = str(snapshot.store.provenance[spec.key]["precision"])
        future = self.models.image(spec, precision, read.picture)
        return read, await asyncio.wrap_future(future)

    def sample(self, sample: str, backbone: str) -> schemas.Sample:
        """Say all that is known of one sample."""
        snapshot = self.latest.snapshot()
        spec, row = snapshot.spec(backbone), self.row(snapshot, sample)
        store = snapshot.store
        names = [n for n in store.column_names if n != "path"]
        known = {n: str(store.array(store.column_array(n), np.array([row]))[0]) for n in names}
        (case,) = cases(snapshot, spec, self.pictures, [row])
        return schemas.Sample(case=case, columns={n: v for n, v in known.items() if v})

    def picture(self, sample: str, backbone: str) -> bytes:
        """Return the picture of one sample, a PNG."""
        snapshot = self.latest.snapshot()
        spec = snapshot.spec(backbone)
        return self.pictures.png(snapshot, spec, self.row(snapshot, sample))

    def row(self, snapshot: Snapshot, sample: str) -> int:
        """Return the raw row of a sample; `Missing` where there is none."""
        row = snapshot.row(sample)
        if row is None:
            raise Missing(f"no image {sample[:80]!r} in the store")
        return row

    def map(self, backbone: str, label: str) -> schemas.Map:
        """Return the map of the vectors of a backbone."""
        snapshot = self.latest.snapshot()
        if label:
            snapshot.store.column_array(label)
        return self.maps.map(snapshot, snapshot.spec(backbone), label)

    async def divide(self, asked: schemas.Divide) -> schemas.Division:
        """Divide the store by two sentences."""
        snapshot = self.latest.snapshot()
        spec = snapshot.spec(asked.backbone, with_text=True)
        pair = await asyncio.wrap_future(self.models.text(spec, [asked.a, asked.b]))
        return await asyncio.to_thread(divide, snapshot, spec, self.pictures, asked, pair)

    def predict(self, asked: schemas.Predict) -> schemas.Prediction:
        """Apply a probe to a sample."""
        snapshot, probe = self.latest.snapshot(), self._probe(asked.probe)
        self.row(snapshot, asked.id)
        question = of_samples(snapshot.searcher(probe.spec), [asked.id], ())
        places = snapshot.searcher(probe.spec).places_of([asked.id])
        as_it_is = snapshot.searcher(probe.spec).vectors[places][0]
        return self._predicted(
            snapshot, asked, probe, Question(as_it_is, question.own, question.rows)
        )

    async def predict_upload(
        self, request: Request, asked: schemas.PredictUpload
    ) -> schemas.Prediction:
        """Apply a probe to an image file."""
        snapshot, probe = self.latest.snapshot(), self._probe(asked.probe)
        read, vector = await self._uploaded(request, snapshot, probe.spec)

        def work() -> schemas.Prediction:
            question = of_upload(snapshot, probe.spec, read, vector, asked.patient)
            return self._predicted(snapshot, asked, probe, question)

        found = await asyncio.to_thread(work)
        return found.model_copy(update={"picture": _data(read.picture)})

    def _predicted(
        self,
        snapshot: Snapshot,
        asked: schemas.AskedProbe,
        probe: SavedProbe,
        question: Question,
    ) -> schemas.Prediction:
        desk = Desk(snapshot, self.searches, self.pictures)
        return desk.predict(asked.probe, probe, question, asked.k)

    def _probe(self, name: str) -> SavedProbe:
        if name not in self.probes:
            known = ", ".join(self.probes) or "none; give serve --probe FOLDER"
            raise Missing(f"no probe {name[:80]!r}; there are: {known}")
        return self.probes[name]


def _refuse_others(models: Mapping[str, str], backbones: Sequence[str]) -> None:
    for name in models:
        if name not in backbones:
            there = ", ".join(dict.fromkeys(backbones))
            raise UsageError(f"--model {name}: no vectors of that backbone; there are {there}")


def _data(picture: Pixels) -> str:
    return f"data:image/png;base64,{base64.b64encode(as_png(on_screen(picture))).decode()}"


def _backbone(snapshot: Snapshot, spec: Spec) -> schemas.Backbone:
    return schemas.Backbone(
        key=spec.key,
        name=spec.backbone,
        recipe=str(spec.recipe),
        dim=spec.dim,
        vectors=snapshot.store.count(spec),
        text=spec.text,
        notes=list(snapshot.notes(spec)),
    )


def _columns(snapshot: Snapshot) -> list[schemas.Column]:
    """Describe the columns that a filter may want, labels first."""
    try:
        spec = snapshot.spec()
    except EmbedstoreError:
        return []
    found = []
    for name in (*snapshot.store.labels, "view", "laterality", "split"):
        codes = snapshot.codes(spec, name)
        counts = dict(zip(codes.values, codes.counts.tolist(), strict=True))
        found.append(
            schemas.Column(
                name=name,
                label=name in snapshot.store.labels,
                numbers=codes.numbers,
                values=counts if len(counts) <= VALUES else None,
            )
        )
    return [c for c in found if c.label or c.values]
