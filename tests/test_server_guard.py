"""Who ``embedstore serve`` refuses, and what it survives: paths, uploads, hosts, crowds, kills."""

from __future__ import annotations

import io
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server_process import Films, Server

from embedstore.search import Asked, Searcher

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from embedstore.server.snapshot import InMemory  # noqa: E402 - it needs fastapi

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "embedstore" / "server" / "static"


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films.shared(tmp_path_factory)


@pytest.fixture(scope="module")
def server(films: Films, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    temporary = tmp_path_factory.mktemp("server")
    started = Server(films.path, temporary, "--max-upload", "2", "--probe", films.probe)
    assert len(list(temporary.glob("embedstore-serve-*"))) == 1
    yield started
    ended_clean(started, signal.SIGTERM)


def ended_clean(server: Server, by: signal.Signals) -> None:
    """Whatever happened to it, a signal ends it in order, and its folder is gone."""
    server.process.send_signal(by)
    assert server.process.wait(30) == 0
    assert list(server.temporary.glob("embedstore-serve-*")) == []
    assert "Traceback" not in server.said()
    server.stop()


def operations(server: Server) -> list[tuple[str, str]]:
    paths = server.get("openapi.json").json["paths"]
    return [(method.upper(), path) for path, of in paths.items() for method in of]


def test_every_path_of_the_api_wants_the_token(server: Server) -> None:
    every = [*operations(server), ("GET", "/api/openapi.json"), ("GET", "/api/nothing")]
    assert len(every) > 10
    forged = (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {server.token[:-1]}"},
        {"Authorization": f"Bearer {server.token}x"},
        {"Authorization": f"Basic {server.token}"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Cookie": f"embedstore-{server.port}="},
        {"Cookie": f"embedstore-1={server.token}"},
        {"X-Token": server.token},
    )
    for method, path in every:
        body = b"" if method == "POST" else None
        for headers in forged:
            reply = server.raw(method, path, body, headers)
            assert reply.status == 401, (method, path, headers)
            assert set(reply.json) == {"error"}
            assert server.token not in reply.body.decode()
        # nor by the query, which logs and histories keep
        assert server.raw(method, f"{path}?token={server.token}", body).status == 401


def test_the_token_becomes_a_cookie_no_script_reads(server: Server) -> None:
    bearer = {"Authorization": f"Bearer {server.token}"}
    given = server.raw("POST", "/api/session", b"", bearer).headers["set-cookie"]
    assert "HttpOnly" in given
    assert "SameSite=strict" in given
    cookie = given.partition(";")[0]
    assert server.raw("GET", "/api/store", headers={"Cookie": cookie}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "10.0.0.1", "[::2]", "a, b"],
)
def test_a_name_that_was_made_to_lead_here_is_refused(server: Server, host: str) -> None:
    headers = {"Host": host, "Authorization": f"Bearer {server.token}"}
    for path in ("/", "/static/main.js", "/api/store"):
        assert server.raw("GET", path, headers=headers).status in {400, 403}


def test_our_own_names_are_answered(server: Server) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        headers = {"Host": f"{host}:{server.port}", "Authorization": f"Bearer {server.token}"}
        assert server.raw("GET", "/api/store", headers=headers).status == 200


def test_other_pages_cannot_ask_with_the_cookie(server: Server) -> None:
    cookie = f"embedstore-{server.port}={server.token}"
    other = [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{server.port + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this machine
    ]
    for headers in other:
        assert server.raw("GET", "/api/store", headers={"Cookie": cookie, **headers}).status == 403
    own = {"Origin": f"http://127.0.0.1:{server.port}", "Sec-Fetch-Site": "same-origin"}
    assert server.raw("GET", "/api/store", headers={"Cookie": cookie, **own}).status == 200


SCHEMATHESIS = Path(sys.executable).with_name("st")


@pytest.mark.skipif(not SCHEMATHESIS.exists(), reason="schemathesis is not installed")
def test_the_api_is_as_it_says(server: Server, tmp_path: Path) -> None:
    # every answer of a status and form that is documented, no error of the server's own; that a
    # request is of the right form does not mean that there is such an image
    command = [SCHEMATHESIS, "run", f"http://127.0.0.1:{server.port}/api/openapi.json"]
    options = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "15"]
    options += ["--phases", "fuzzing", "--workers", "1", "--request-timeout", "30"]
    header = ["-H", f"Authorization: Bearer {server.token}"]
    run = subprocess.run(
        [*command, *options, *header, "--seed", "1", "--no-color"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert re.search(r"Tested: +10\n", run.stdout)


PATHS = [
    "/static/../../../../../../etc/passwd",
    "/static/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/static/%2e%2e/%2e%2e/app.py",
    "/static/..%5c..%5capp.py",
    "/static//etc/passwd",
    "/static/%00",
    "/static/main.js%00.css",
    "/../app.py",
    "//etc/passwd",
    "/etc/passwd",
    "/static/",
    "/static",
    "/s.zarr/zarr.json",
    "/api/../app.py",
    "/api/picture/../../etc/passwd",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_outside(server: Server, path: str) -> None:
    reply = server.raw("GET", path, headers={"Authorization": f"Bearer {server.token}"})
    assert reply.status in {307, 400, 404}
    assert b"root:" not in reply.body
    assert b"import" not in reply.body


def test_an_id_is_looked_up_and_never_opened(films: Films, server: Server) -> None:
    film = films.table["path"][0]
    for name in ("/etc/passwd", "../../../etc/passwd", str(film), "\x00", "zarr.json", "x" * 999):
        for path in ("picture", "sample"):
            assert server.get(path, id=name).status == 404


def test_the_page_asks_for_nothing_elsewhere(server: Server) -> None:
    page = server.raw("GET", "/")
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(rb"<script(?![^>]*\bsrc=)|\bstyle=|\bon[a-z]+=", page.body)
    for file in STATIC.iterdir():
        found = set(re.findall(r"https?://[\w./-]+", file.read_text()))
        assert found <= {"http://www.w3.org/2000/svg"}, file


def bomb() -> bytes:
    """Make a PNG of 30,000 by 30,000 that is some 100 kB long."""
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    line = bytes(30001)
    data = b"".join(packer.compress(line) for _ in range(30000)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def as_format(kind: str, size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full(size, 90, np.uint8)).save(out, kind)
    return out.getvalue()


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "noise": lambda: np.random.default_rng(0).bytes(50_000),
    "half a PNG": lambda: as_format("PNG")[:60],
    "half a JPEG": lambda: as_format("JPEG", (512, 512))[:700],
    "a PNG bomb": bomb,
    "a GIF": lambda: as_format("GIF"),
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "a page": lambda: b"<html><script>alert(1)</script></html>",
    "SVG": lambda: (
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    ),
    "a DICOM header": lambda: bytes(128) + b"DICM" + b"\xff" * 300,
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
    "one pixel": lambda: as_format("PNG", (1, 1)),
    "a thread": lambda: as_format("PNG", (8, 8000)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_line_and_leaves_nothing(server: Server, name: str) -> None:
    reply = server.send("search", HOSTILE[name](), k=3)
    assert reply.status == 400, reply.body[:300]
    assert set(reply.json) == {"error"}
    assert str(server.temporary) not in reply.json["error"]
    assert server.left() == []
    assert server.get("store").status == 200


def test_what_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    bearer = {"Authorization": f"Bearer {server.token}"}
    for path, length in (("/api/upload/search", (2 << 20) + 1), ("/api/search", (1 << 20) + 1)):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            head += f"Authorization: Bearer {server.token}\r\nContent-Length: {length}\r\n\r\n"
            connection.sendall(head.encode())  # and not a byte of the body
            assert b" 413 " in connection.recv(4096).partition(b"\r\n")[0]
    headers = {**bearer, "Transfer-Encoding": "chunked"}
    assert server.raw("POST", "/api/upload/search", None, headers).status == 411
    for odd in ("-1", "1e9", "9" * 20):
        headers = {**bearer, "Content-Length": odd}
        assert server.raw("POST", "/api/upload/search", None, headers).status in {400, 413}
    just = as_format("PNG") + bytes((2 << 20) - len(as_format("PNG")))
    assert server.send("search", just, k=3).status == 200


def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            head = f"POST /api/upload/search HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
            head += f"Authorization: Bearer {server.token}\r\nContent-Length: 900000\r\n\r\n"
            connection.sendall(head.encode() + bytes(300_000))
            until(lambda: server.left())
    until(lambda: not server.left())
    assert server.send("search", as_format("PNG"), k=3).status == 200


def until(true: Callable[[], Any], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def crowd(films: Films, server: Server, clients: int, rounds: int) -> list[str]:
    """Have clients ask at once, each its own; return what was wrong."""
    wrong: list[str] = []
    start = threading.Barrier(clients)
    film = Path(films.table["path"][1]).read_bytes()

    def client(number: int) -> None:
        start.wait()
        for turn in range(rounds):
            i = (7 * number + turn) % len(films.ids)
            if number % 10 == 9:
                if server.post("search", ids=["nobody"], k=5).status != 404:
                    wrong.append("nobody was found")
            elif number % 10 == 8:
                k = len(films.ids)  # more than there are
                if server.post("search", ids=[films.ids[i]], k=k).status != 400:
                    wrong.append("k was not refused")
            elif number == 7:
                if server.send("search", film, k=2).status != 200:
                    wrong.append("an upload failed")
            elif number == 6:
                if server.get("picture", id=films.ids[i]).status != 200:
                    wrong.append("a picture failed")
            else:
                answer = server.post("search", ids=[films.ids[i]], k=5)
                others = films.others(films.patients[i])
                found = [case["id"] for case in answer.json.get("cases", [])]
                if found != films.best(films.unit[i], 5, others):
                    wrong.append(f"{films.ids[i]}: {answer.body[:200]!r}")

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return wrong


def test_fifty_at_once_get_their_own_answers_and_nothing_leaks(
    films: Films, server: Server
) -> None:
    assert crowd(films, server, 50, 2) == []
    until(lambda: server.left() == [])
    time.sleep(0.5)
    files, memory = server.files(), server.memory()
    assert crowd(films, server, 50, 4) == []
    until(lambda: server.files() <= files + 3)
    assert server.memory() < memory + (48 << 20)
    assert server.left() == []


def test_many_filters_do_not_fill_the_memory(films: Films) -> None:
    most, store = 5, InMemory.open(films.path)
    is_cc = (films.table["view"] == "CC").to_numpy()
    searcher = Searcher(store, films.spec, filters=17 * most * store.count(films.spec))
    for n in range(40):
        where = f"view == 'CC' or id == '{n}'"
        found = searcher.search(Asked(films.vectors[:1]), 3, where)
        assert found.ids[0].tolist() == films.best(films.unit[0], 3, is_cc)
        assert len(searcher._choices) <= most


def test_an_exposed_server_takes_addresses_and_names_and_ctrl_c_ends_it(
    films: Films, server: Server, tmp_path: Path
) -> None:
    options = ("--host", "0.0.0.0", "--expose", "--allow-host", "Films.example")
    exposed = Server(films.path, tmp_path / "server", *options)
    assert server.token != (other := exposed.token)
    assert len(other) >= 43  # 256 bits
    assert other.encode() not in Path(f"/proc/{exposed.process.pid}/cmdline").read_bytes()
    try:
        for host, status in (
            (f"10.1.2.3:{exposed.port}", 200),
            ("films.example", 200),
            ("evil.example", 403),
            ("10.1.2.3.evil.example", 403),
        ):
            headers = {"Host": host, "Authorization": f"Bearer {exposed.token}"}
            assert exposed.raw("GET", "/api/store", headers=headers).status == status, host
        assert exposed.raw("GET", "/api/store").status == 401
        assert "nothing is encrypted" in exposed.said()
        assert len(list(exposed.temporary.glob("embedstore-serve-*"))) == 1
        ended_clean(exposed, signal.SIGINT)
    finally:
        exposed.stop()


def test_by_default_only_this_machine_is_listened_to(server: Server) -> None:
    listening = Path(f"/proc/{server.process.pid}/net/tcp").read_text()
    (local,) = [
        line.split()[1]
        for line in listening.splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")
    ]
    assert local.startswith(f"{struct.unpack('<I', socket.inet_aton('127.0.0.1'))[0]:08X}")
