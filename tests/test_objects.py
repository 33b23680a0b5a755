"""Stores and images in object storage, against those on the disk, over a server that speaks S3."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import dicom_archive
import numpy as np
import obstore
import polars as pl
import pytest
import toy_stores
import vector_stores
import zarr
from object_work import apart
from obstore.store import S3Store
from s3_server import BUCKET, served
from sklearn.linear_model import LogisticRegression
from zarr.storage import ObjectStore

from embedstore import blocks, chunks
from embedstore.backbones import load_backbone
from embedstore.check import check
from embedstore.cli import _run
from embedstore.delete import compact, delete
from embedstore.errors import EmbedstoreError, StoreError, UsageError
from embedstore.extract import extract
from embedstore.images.recipe import RECIPES
from embedstore.manifest import read_manifest
from embedstore.merge import merge
from embedstore.places import ObjectPlace, missing_of, place
from embedstore.plan import Plan
from embedstore.probes.logistic import LogisticProbe
from embedstore.store import Store
from embedstore.update import update

PLAN = Plan("cpu", "float32", 8, 0)
Environment = dict[str, str]


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Environment]]:
    with served() as users:
        yield users


@pytest.fixture
def bucket(
    server: dict[str, Environment],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Return a prefix of the test's own in the bucket; secrets go into the test's own folder."""
    for name, value in {**server["all"], "EMBEDSTORE_KEYS": str(tmp_path / "keys")}.items():
        monkeypatch.setenv(name, value)
    return place(f"s3://{BUCKET}/{request.node.name}")


def plain_client(where: Environment) -> S3Store:
    """Return a client that knows nothing of ours."""
    return S3Store(
        BUCKET,
        endpoint=where["AWS_ENDPOINT_URL"],
        client_options={"allow_http": True},
        access_key_id=where["AWS_ACCESS_KEY_ID"],
        secret_access_key=where["AWS_SECRET_ACCESS_KEY"],
    )


def arrays_of(group: zarr.Group) -> dict[str, np.ndarray]:
    return {n: a[:] for n, a in group.members(max_depth=None) if isinstance(a, zarr.Array)}


def assert_same(one: Path, other: Path) -> None:
    """Compare all that two stores hold, raw."""
    stores = Store.open(one), Store.open(other)
    names = [{n for n, m in store.arrays.items() if m["node_type"] == "array"} for store in stores]
    assert names[0] == names[1]
    for name in names[0]:
        np.testing.assert_array_equal(stores[0].array(name), stores[1].array(name), name)


def upload(folder: Path, target: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder)).write_bytes(file.read_bytes())


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    assert _run([*arguments], False) == code
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "run again with --debug" not in line
    return line


def test_the_server_lets_one_of_many_conditional_puts_win(server: dict[str, Environment]) -> None:
    client = plain_client(server["all"])

    def won(mode: object) -> bool:
        try:
            obstore.put(client, "premise", os.urandom(8), mode=mode)
        except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(won, ["create"] * 8)) == 1
        for _ in range(10):
            known = {"e_tag": obstore.head(client, "premise")["e_tag"]}
            assert sum(threads.map(won, [known] * 8)) == 1


def test_extraction_to_objects_is_that_to_disk_for_any_zarr_client(
    bucket: Path, server: dict[str, Environment], films: Path, tmp_path: Path
) -> None:
    backbones = [load_backbone(n, RECIPES["plain"]) for n in ("statistics", "timm:test_vit@random")]
    samples = read_manifest(films).samples
    for store in (tmp_path / "s.zarr", bucket / "s.zarr"):
        extract(samples[:5], store, backbones[:1], PLAN, keep_pixels=True)
        extract(samples, store, backbones, PLAN, keep_pixels=True)
    assert isinstance(bucket, ObjectPlace)
    there = ObjectStore(S3Store.from_url(str(bucket / "s.zarr"), **_how(server["all"])))
    expected = arrays_of(zarr.open_group(tmp_path / "s.zarr", mode="r"))
    found = arrays_of(zarr.open_group(there, mode="r"))
    assert found.keys() == expected.keys()
    assert len(found) > 20
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)
    # and for clients that open one array alone
    one = zarr.open_array(there, path="samples/labels/tissue", mode="r")
    assert one[:].tolist() == pl.read_csv(films)["tissue"].to_list()
    assert_same(tmp_path / "s.zarr", bucket / "s.zarr")


def _how(where: Environment) -> dict[str, object]:
    return {
        "endpoint": where["AWS_ENDPOINT_URL"],
        "client_options": {"allow_http": True},
        "access_key_id": where["AWS_ACCESS_KEY_ID"],
        "secret_access_key": where["AWS_SECRET_ACCESS_KEY"],
    }


def test_changes_leave_the_same_store_as_on_the_disk(bucket: Path, tmp_path: Path) -> None:
    toys = partial(toy_stores.toys, specs=(toy_stores.ONE,))
    for top in (tmp_path, bucket):
        toy_stores.write(top / "a.zarr", toys(12))
        toy_stores.write(top / "b.zarr", toys(8, start=8))
        merge([top / "a.zarr", top / "b.zarr"], top / "m.zarr")
        frame = pl.DataFrame({"id": ["image-0001", "image-0009"], "density": ["D", "D"]})
        update(top / "m.zarr", frame)
        delete(top / "m.zarr", ids=["image-0002", "image-0012"])
        compact(top / "m.zarr")
        toy_stores.write(top / "m.zarr", toys(4, start=16))
    assert_same(tmp_path / "m.zarr", bucket / "m.zarr")
    assert not check(bucket / "m.zarr").findings
    assert len(Store.open(bucket / "m.zarr")) == 18


def test_probes_and_searches_give_the_same_numbers(
    bucket: Path, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = read_manifest(films).samples
    backbone = load_backbone("statistics", RECIPES["plain"])
    said = []
    for store in (tmp_path / "s.zarr", bucket / "s.zarr"):
        extract(samples, store, [backbone], PLAN)
        commands = (
            ["probe", str(store), "--label", "tissue", "--head", "logistic", "--folds", "3"],
            ["search", str(store), "--id", "film03", "-k", "4"],
        )
        for command in commands:
            assert _run([*command, "--json"], False) == 0
            said.append(capsys.readouterr().out.replace(str(store), "STORE"))
    probes = [[_scores(report) for report in json.loads(text)] for text in said[::2]]
    assert probes[0] == probes[1]
    assert probes[0][0]
    assert json.loads(said[1]) == json.loads(said[3])


def _scores(report: dict[str, object]) -> object:
    return report["metrics"]


def test_writers_at_once_do_not_harm_each_other(server: dict[str, Environment]) -> None:
    count = apart("raced", server["all"], 2, 3)
    assert count["finished"] >= 2
    assert count["refused"] >= 2


def test_a_killed_writer_is_followed_at_once_and_loses_no_commit(
    server: dict[str, Environment],
) -> None:
    count = apart("survived", server["all"], 4, 0)
    assert count["kills"] == 4


def test_a_writer_that_slept_through_its_lease_commits_no_more(
    server: dict[str, Environment],
) -> None:
    # else the first commits on the chunks of the second
    assert apart("fenced", server["all"], EMBEDSTORE_LEASE="0.6") == {"first": 3, "second": 0}
    assert apart("awoken", server["all"], 1, 0, EMBEDSTORE_LEASE="0.6")["refused"] <= 1


def test_a_reader_meanwhile_sees_whole_commits_only(server: dict[str, Environment]) -> None:
    assert apart("read_meanwhile", server["all"], 0)["commits"] >= 2


def test_images_are_read_from_objects(bucket: Path, films: Path, tmp_path: Path) -> None:
    upload(films.parent, bucket / "films")
    table = pl.read_csv(films)
    by_name = table.with_columns(image=pl.lit(f"{bucket}/films/") + pl.col("image"))
    by_name.write_csv(tmp_path / "named.csv")
    backbone = load_backbone("statistics", RECIPES["mammography"])
    extract(read_manifest(films).samples, tmp_path / "s.zarr", [backbone], PLAN)
    expected = Store.open(tmp_path / "s.zarr").read(backbone.spec)
    manifests = (tmp_path / "named.csv", str(bucket / "films" / "manifest.csv"))
    for n, manifest in enumerate(manifests):
        plan = Plan("cpu", "float32", 8, 2 * n)
        extract(read_manifest(manifest).samples, tmp_path / f"{n}.zarr", [backbone], plan)
        store = Store.open(tmp_path / f"{n}.zarr")
        assert not store.failures()
        found = store.read(backbone.spec)
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.vectors, expected.vectors)
        np.testing.assert_array_equal(found.digests, expected.digests)


def test_a_server_that_is_away_is_no_failure_of_the_images(
    bucket: Path, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(films.parent, bucket)
    samples = read_manifest(str(bucket / "manifest.csv")).samples
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    backbone = load_backbone("statistics", RECIPES["plain"])
    with pytest.raises(StoreError, match="nobody answers"):
        extract(samples, tmp_path / "s.zarr", [backbone], PLAN)
    assert not Store.open(tmp_path / "s.zarr").failures()


def test_an_image_replaced_within_the_second_is_embedded_anew(
    bucket: Path, films: Path, tmp_path: Path
) -> None:
    names = pl.read_csv(films)["image"].to_list()
    data = [(films.parent / name).read_bytes() for name in names[:3]]
    longest = max(map(len, data))
    one, other = (d + bytes(longest - len(d)) for d in data[:2])  # of one size
    pl.DataFrame({"image": [f"{bucket}/x.png"]}).write_csv(tmp_path / "m.csv")
    backbone = load_backbone("statistics", RECIPES["plain"])
    (bucket / "x.png").write_bytes(one)
    extract(read_manifest(tmp_path / "m.csv").samples, tmp_path / "s.zarr", [backbone], PLAN)
    again = extract(
        read_manifest(tmp_path / "m.csv").samples, tmp_path / "s.zarr", [backbone], PLAN
    )
    assert (again.changed, again.written[backbone.spec.key]) == (0, 0)
    (bucket / "x.png").write_bytes(other)
    (bucket / "y.png").write_bytes(other)
    again = extract(
        read_manifest(tmp_path / "m.csv").samples, tmp_path / "s.zarr", [backbone], PLAN
    )
    assert again.changed == 1


def test_a_dicom_archive_in_objects_is_read_as_on_the_disk(bucket: Path, tmp_path: Path) -> None:
    from embedstore.archive import holds_dicom, read_archive

    (tmp_path / "dicom").mkdir()
    dicom_archive.hospital(tmp_path / "dicom")
    upload(tmp_path / "dicom", bucket)
    assert holds_dicom(bucket)
    here, there = read_archive(tmp_path / "dicom"), read_archive(bucket)
    assert there.tags == here.tags
    assert [(s.id, s.group, s.view) for s in there.samples] == [
        (s.id, s.group, s.view) for s in here.samples
    ]
    assert len(there.samples) > 3


def test_missing_images_are_named_before_any_work(bucket: Path, tmp_path: Path) -> None:
    (bucket / "a" / "1.png").write_bytes(b"1")
    (bucket / "b" / "1.png").write_bytes(b"1")
    asked = [bucket / "a" / "1.png", bucket / "a" / "2.png", bucket / "b" / "1.png", tmp_path]
    assert missing_of(asked) == {bucket / "a" / "2.png", tmp_path}


def test_secrets_stay_on_this_machine(bucket: Path, films: Path, tmp_path: Path) -> None:
    manifest, store = str(films), str(bucket / "s.zarr")
    for _ in range(2):  # the second finds the key again
        assert _run(["extract", manifest, "--store", store, "--backbone", "statistics"], False) == 0
    client = S3Store(BUCKET)
    keys = [m["path"] for part in obstore.list(client) for m in part]
    inside = f"{place(store).key}/"  # type: ignore[attr-defined]
    ours = [k for k in keys if k.startswith(place(store).key)]  # type: ignore[attr-defined]
    assert [k for k in ours if not k.startswith(inside)] == [f"{inside[:-1]}.lock"]
    (key,) = (tmp_path / "keys").rglob("*.key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    everything = b"".join(obstore.get(client, k).bytes().to_bytes() for k in ours)
    for secret in ("pat3", key.read_text().strip(), os.environ["AWS_ENDPOINT_URL"]):
        assert secret.encode() not in everything


def test_damage_is_noticed_by_whoever_reads(bucket: Path, tmp_path: Path) -> None:
    toy_stores.write(bucket / "s.zarr", toy_stores.toys(9))
    store = Store.open(bucket / "s.zarr")
    file = bucket / "s.zarr" / "embeddings" / toy_stores.ONE.key / "vectors" / "c" / "0" / "0"
    data = bytearray(file.read_bytes())
    data[5] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"vectors/c/0/0: checksum differs"):
        store.vectors(toy_stores.ONE)
    (found,) = check(bucket / "s.zarr").damage
    assert found.kind == "checksum"
    file.unlink()
    (found,) = check(bucket / "s.zarr").damage
    assert found.kind == "missing"


def test_chunks_are_kept_up_to_a_bound_and_rows_are_right(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(chunks, "FETCHED_BYTES", 3 * 4096)
    vectors = np.random.default_rng(1).standard_normal((2000, 8)).astype(np.float32)
    vector_stores.write(bucket / "s.zarr", vectors)
    store = Store.open(bucket / "s.zarr")
    name = f"embeddings/{vector_stores.spec_of(8).key}/vectors"
    assert chunks.Layout(name, "float32", (8,)).chunk_rows == 64
    np.testing.assert_array_equal(store.array(name), vectors)
    rng = np.random.default_rng(0)
    for _ in range(20):
        rows = rng.integers(0, len(vectors), 40)
        np.testing.assert_array_equal(store.array(name, rows), vectors[rows])
        kept = store._maps._chunks.values()
        assert sum(c.nbytes for c in kept) <= 3 * 4096


def test_a_head_learns_block_by_block_from_objects(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4096)
    monkeypatch.setattr(chunks, "FETCHED_BYTES", 3 * 4096)
    monkeypatch.setattr(blocks, "IN_MEMORY", 0)
    vectors = np.random.default_rng(1).standard_normal((2000, 8)).astype(np.float32)
    vector_stores.write(bucket / "s.zarr", vectors)
    delete(bucket / "s.zarr", [Store.open(bucket / "s.zarr").array("samples/id")[7]])
    left = np.delete(vectors, 7, axis=0)
    truth = (left[:, 0] + np.random.default_rng(2).standard_normal(len(left)) > 0).astype(int)
    read = Store.open(bucket / "s.zarr").read(vector_stores.spec_of(8)).vectors
    assert isinstance(read, blocks.Blocks)
    found = LogisticProbe(C=1.0, tol=1e-8).fit(read, truth).predict_proba(left)
    theirs = LogisticRegression(C=1.0, tol=1e-10).fit(left.astype(np.float64), truth)
    np.testing.assert_allclose(found, theirs.predict_proba(left), atol=1e-4)


def test_odd_names_of_labels_are_keys_too(bucket: Path) -> None:
    name = "a b%#é ü?*"
    toys = toy_stores.toys(4, labels={name: "x", "plain": "y"})
    toy_stores.write(bucket / "s.zarr", toys)
    assert Store.open(bucket / "s.zarr").column(name).tolist() == ["x"] * 4
    assert not check(bucket / "s.zarr").findings


def test_what_cannot_be_used_is_one_line_without_secrets(
    tmp_path: Path, films: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, nobody = f"s3://{BUCKET}/s.zarr", f"s3://nobody-{os.getpid()}/s.zarr"
    begun = ["extract", str(films), "--store", store, "--backbone", "statistics"]
    with served(users=True) as users:
        everyone = users["all"]

        def use(**changes: str) -> None:
            for name, value in {**everyone, **changes}.items():
                monkeypatch.setenv(name, value)

        use()
        toy_stores.write(place(store), toy_stores.toys(3))
        use(**users["read"])
        assert len(Store.open(store)) == 3
        lines = [one_line(capsys, *begun, "--patient-ids", "keep")]
        assert "not allowed (AccessDenied)" in lines[-1]
        use(AWS_SECRET_ACCESS_KEY="not-the-secret")
        lines += [one_line(capsys, "info", store)]
        assert "not allowed" in lines[-1]
        assert "AWS_SECRET_ACCESS_KEY" in lines[-1]
        use(AWS_ACCESS_KEY_ID="nobody")
        lines += [one_line(capsys, "check", store)]
        assert "not allowed" in lines[-1]
        use()
        lines += [one_line(capsys, "info", nobody)]
        assert "no such bucket" in lines[-1]
        lines += [one_line(capsys, "info", f"s3://{BUCKET}/other.zarr")]
        assert "no such store" in lines[-1]
        use(AWS_ALLOW_HTTP="false")
        lines += [one_line(capsys, "info", store)]
        assert "AWS_ALLOW_HTTP" in lines[-1]
        use(AWS_ENDPOINT_URL="http://127.0.0.1:9")
        lines += [one_line(capsys, "info", store)]
        assert "nobody answers" in lines[-1]
        for line in lines:
            assert not any(users["all"][n] in line for n in users["all"] if "KEY" in n), line
            assert "127.0.0.1" not in line
            assert "not-the-secret" not in line


def test_what_needs_a_file_of_this_machine_says_so(
    bucket: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    toy_stores.write(bucket / "s.zarr", toy_stores.toys(9))
    line = one_line(capsys, "index", str(bucket / "s.zarr"), "--backbone", "one", code=2)
    assert "in object storage" in line
    with pytest.raises(StoreError, match="give the store a name"):
        toy_stores.write(bucket.parent, toy_stores.toys(3))
    with pytest.raises(UsageError, match="in object storage"):
        shutil.copytree(bucket / "s.zarr", tmp_path / "x")
    with pytest.raises(UsageError, match="in object storage"):
        (bucket / "s.zarr" / "x").open("w")


@pytest.mark.parametrize(
    ("text", "said"),
    [("s3://", "give a bucket"), ("s3://b/../x", "give a bucket"), ("ftp://b/x", "not read here")],
)
def test_a_place_that_is_none_is_told(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        place(text)


def test_a_place_is_spelt_with_both_slashes_however_it_came() -> None:
    for text in ("s3://b/x/y.zarr", Path("s3://b/x/y.zarr"), "s3://b/x//y.zarr/"):
        assert str(place(text)) == "s3://b/x/y.zarr"
    assert str(place("gs://b/x") / "zarr.json") == "gs://b/x/zarr.json"
    assert place("films/s3.zarr") == Path("films/s3.zarr")


def test_without_obstore_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from embedstore.cli import main\n"
        f"sys.argv = ['embedstore', 'info', 's3://{BUCKET}/s.zarr']; main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 2
    assert "pip install 'embedstore[cloud]'" in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_lock_taken_by_another_machine_is_respected(bucket: Path) -> None:
    lock = bucket / "s.zarr.lock"
    held = {"pid": 1, "host": "elsewhere", "machine": "elsewhere"}
    lock.write_bytes(json.dumps(held).encode())
    with pytest.raises(EmbedstoreError, match="s.zarr: being written by process 1 on elsewhere"):
        toy_stores.write(bucket / "s.zarr", toy_stores.toys(3))
    assert not (bucket / "s.zarr").exists()
