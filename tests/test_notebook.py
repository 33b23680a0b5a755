"""A store from Python: vectors, table and torch datasets, against zarr-python, numpy and torch."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import zarr
from notebook_store import GONE, LATE, PLAIN, WHOLE, Made, make
from torch.utils.data import DataLoader

import embedstore
from embedstore.errors import DataError, StoreError, UsageError
from embedstore.writer import Writer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made") / "s.zarr")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Nothing is deleted."""
    return make(tmp_path_factory.mktemp("whole") / "s.zarr", gone=())


def numbers(vectors: np.ndarray) -> list[str]:
    """Ids of the samples whose vectors these are."""
    return [f"i{int(n)}" for n in vectors[:, 0]]


def test_vectors_are_those_zarr_reads_and_nothing_is_copied(whole: Made) -> None:
    store = embedstore.open(whole.path)
    vectors = store.vectors("whole")
    group = zarr.open_group(whole.path, mode="r")
    np.testing.assert_array_equal(vectors, group[f"embeddings/{WHOLE.key}/vectors"][:])
    assert np.shares_memory(vectors, store.vectors(WHOLE))
    with pytest.raises(ValueError, match="read-only"):
        vectors[0, 0] = 1


def test_mapped_vectors_outlive_the_store(whole: Made) -> None:
    vectors = embedstore.open(whole.path).vectors("whole")
    np.testing.assert_array_equal(vectors, whole.vectors["whole"])


def test_deleted_at_the_ends_costs_no_copy(tmp_path: Path) -> None:
    made = make(tmp_path / "s.zarr", gone=(0, 1, 239))
    store = embedstore.open(made.path)
    np.testing.assert_array_equal(store.vectors("whole"), made.vectors["whole"][2:239])
    assert np.shares_memory(store.vectors("whole"), store.vectors("whole"))


@pytest.mark.parametrize("backbone", ["whole", "vit:late@x"])
def test_row_i_of_the_table_is_vector_i(made: Made, backbone: str) -> None:
    store = embedstore.open(made.path)
    vectors, table = store.vectors(backbone), store.table(backbone)
    assert table["id"].to_list() == numbers(vectors)
    there = made.visible(sorted(made.late) if backbone == "vit:late@x" else range(240))
    np.testing.assert_array_equal(vectors, made.vectors[backbone][there])


def test_both_backbones_and_the_table_of_both_agree(made: Made) -> None:
    store = embedstore.open(made.path)
    ids = store.table("whole", LATE)["id"]
    assert ids.to_list() == [f"i{n}" for n in made.visible(sorted(made.late))]
    assert numbers(store.vectors("whole", ids)) == ids.to_list()


def test_vectors_follow_any_column_of_ids(made: Made) -> None:
    store = embedstore.open(made.path)
    wanted = store.table().filter(pl.col("density") == "B").sort("score", descending=True)["id"]
    assert len(wanted) > 20
    for backbone in ("whole", "vit:late@x"):
        there = wanted.filter(wanted.is_in(store.table(backbone)["id"].to_list()))
        assert numbers(store.vectors(backbone, there)) == there.to_list()
    with pytest.raises(UsageError, match=r"no vector of vit:late@x of a sample 'i7'"):
        store.vectors("vit:late@x", ["i1", "i7"])
    with pytest.raises(UsageError, match="'i17'"):  # deleted
        store.vectors("whole", ["i17"])


def test_the_table_is_what_was_given_less_what_was_deleted(made: Made) -> None:
    table = embedstore.open(made.path).table()
    given = [made.samples[n] for n in made.visible()]
    expected = pl.DataFrame(
        {
            "id": [s.id for s in given],
            "path": [str(s.path) for s in given],
            **{
                name: [getattr(s, name) for s in given]
                for name in ("group", "exam", "view", "laterality", "split")
            },
            "density": [s.labels["density"] or None for s in given],
            "age": [int(s.labels["age"]) if s.labels["age"] else None for s in given],
            "score": [float(s.labels["score"]) for s in given],
            "site": [s.labels["site"] for s in given],
        }
    )
    assert table.equals(expected.select(table.columns))
    assert table.columns[:7] == expected.columns[:7]
    assert set(table.columns) == set(expected.columns)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "", "-3"], [1, None, -3]),
        (["1", "2.50", "-1e-3"], [1.0, 2.5, -0.001]),
        (["007", "1", "2"], ["007", "1", "2"]),
        (["1", "2", "A"], ["1", "2", "A"]),
        (["12345678901234567890", "1", "2"], ["12345678901234567890", "1", "2"]),
        (["nan", "1", "2"], ["nan", "1", "2"]),
        (["1_000", "+1", " 1"], ["1_000", "+1", " 1"]),
        (["", "", ""], [None, None, None]),
    ],
)
def test_a_label_of_numbers_is_numbers_where_nothing_is_lost(
    tmp_path: Path, values: list[str], expected: list[Any]
) -> None:
    with Writer(tmp_path / "s.zarr") as writer:
        writer.add_samples(
            [embedstore.Sample(f"{n}", Path("x"), labels={"y": v}) for n, v in enumerate(values)]
        )
        writer.commit()
    table = embedstore.open(tmp_path / "s.zarr").table()
    found = table["y"].to_list()
    assert found == expected
    assert [type(v) for v in found] == [type(v) for v in expected]
    assert table["id"].to_list() == ["0", "1", "2"]  # an id is no number


def test_the_table_becomes_a_pandas_frame(made: Made) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = embedstore.open(made.path).table("whole")
    frame = table.to_pandas()
    assert frame["id"].tolist() == table["id"].to_list()
    assert frame["age"].isna().sum() == 1
    assert frame["age"].mean() == pytest.approx(table["age"].mean())


def test_verified_vectors_are_checked(tmp_path: Path) -> None:
    made = make(tmp_path / "s.zarr", gone=())
    chunk = made.path / "embeddings" / WHOLE.key / "vectors" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[1000] ^= 1
    chunk.write_bytes(data)
    assert len(embedstore.open(made.path).vectors("whole")) == 240
    with pytest.raises(StoreError, match="checksum"):
        embedstore.open(made.path, verify=True).vectors("whole")


def expected_items(made: Made, split: str | None = None) -> dict[int, int]:
    """Map the samples with a density to its number."""
    items = {}
    for n in made.visible():
        label = made.samples[n].labels["density"]
        if label and split in {None, made.samples[n].split}:
            items[n] = "ABCD".index(label)
    return items


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_deliver_every_vector_with_its_class(made: Made, start: str) -> None:
    dataset = embedstore.open(made.path).dataset("whole", label="density", split="train")
    dataset[0]  # the parent has mapped the files before
    loader = DataLoader(
        dataset, batch_size=32, shuffle=True, num_workers=2, multiprocessing_context=start
    )
    batches = list(loader)
    vectors = torch.cat([x for x, _ in batches])
    rows, classes = vectors[:, 0].int().numpy(), torch.cat([y for _, y in batches])
    assert dict(zip(rows.tolist(), classes.tolist(), strict=True)) == expected_items(made, "train")
    assert len(rows) == len(expected_items(made, "train"))
    np.testing.assert_array_equal(vectors.numpy(), made.vectors["whole"][rows])


def test_an_item_is_a_vector_or_a_vector_and_its_class(made: Made) -> None:
    store = embedstore.open(made.path)
    dataset = store.dataset("vit:late@x")
    there = made.visible(sorted(made.late))
    assert len(dataset) == len(there)
    assert dataset[3].dtype == torch.float32
    np.testing.assert_array_equal(
        torch.stack(list(dataset)), made.vectors["vit:late@x"][there].astype(np.float32)
    )
    assert dataset.ids.tolist() == [f"i{n}" for n in there]
    assert dataset.groups.tolist() == [f"p{n // 4}" for n in there]
    vector, number = store.dataset("whole", label="density")[-1]
    assert (vector[0], number) == (238, "ABCD".index(made.samples[238].labels["density"]))


def test_classes_are_numbered_alike_in_every_split(tmp_path: Path) -> None:
    made = make(tmp_path / "s.zarr", gone=tuple(range(1, 240, 20)))
    store = embedstore.open(made.path)
    train, test = (store.dataset("whole", label="density", split=s) for s in ("train", "test"))
    assert set(test.targets.tolist()) == {0, 2}  # no B and no D is left there
    assert train.classes == test.classes == ("A", "B", "C", "D")
    turned = store.dataset("whole", label="density", order=("D", "C", "B", "A"))
    assert turned.classes == ("D", "C", "B", "A")
    x, y = turned[0]
    assert turned.classes[y] == made.samples[int(x[0])].labels["density"]


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"split": "val"}, DataError, "no sample of split 'val'; the splits are: test, train"),
        ({"label": "birads"}, UsageError, "no column 'birads'; there are"),
        ({"label": "density", "order": ("A", "B")}, UsageError, "leaves out C, D"),
        ({"backbone": "resnet"}, UsageError, "no embeddings of 'resnet'"),
        ({"backbone": "vit:late@x", "pixels": True}, DataError, "--keep-pixels"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    made: Made, asked: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        embedstore.open(made.path).dataset(**{"backbone": "whole", **asked})
    assert "\n" not in str(caught.value)


def test_a_label_nobody_has_is_said(tmp_path: Path) -> None:
    made = make(tmp_path / "s.zarr", gone=())
    with Writer(made.path) as writer:
        writer.add_label("empty", [""] * 240)
        writer.commit()
    with pytest.raises(DataError, match="'empty' is empty for all 240 images"):
        embedstore.open(made.path).dataset("whole", label="empty")


def test_kept_pictures_are_the_recipes_tensors(made: Made) -> None:
    dataset = embedstore.open(made.path).dataset("whole", label="density", pixels=True)
    labelled = [n for n in sorted(made.pictures) if n in expected_items(made)]
    assert {made.pictures[n].dtype.name for n in labelled} == {"uint8", "uint16"}
    found = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    mean, std = (torch.tensor(v)[:, None, None] for v in (PLAIN.mean, PLAIN.std))
    for n, tensor, number in zip(labelled, *found, strict=True):
        picture = torch.from_numpy(made.pictures[n].astype(np.float64))
        unit = picture / np.iinfo(made.pictures[n].dtype).max
        unit = unit.expand(3, 6, 5) if unit.ndim == 2 else unit.permute(2, 0, 1)
        torch.testing.assert_close(tensor, ((unit - mean) / std).float())
        assert number == expected_items(made)[n]


def test_a_store_crosses_to_another_process_without_its_vectors(made: Made) -> None:
    store = embedstore.open(made.path)
    store.vectors("whole")
    data = pickle.dumps(store.dataset("whole"))
    assert len(data) < made.vectors["whole"].nbytes / 8
    np.testing.assert_array_equal(pickle.loads(data).store.vectors(WHOLE), store.vectors(WHOLE))


def test_names_do_where_a_spec_does(made: Made) -> None:
    store = embedstore.open(made.path)
    for name in ("vit:late@x", LATE.key, LATE.key[:6]):
        np.testing.assert_array_equal(store.read(name).ids, store.read(LATE).ids)
        assert store.notes(name) == store.notes(LATE)
    assert not {f"i{n}" for n in GONE} & set(store.read("whole").ids.tolist())
