"""``embedstore serve``: search round trips on 100,000 rows, by 20 clients at once and in the page.

python benchmarks/serve.py [--rows 100000] [--clients 20] [--folder KEPT]

A store of clustered vectors of 512 dimensions, four a patient, three labels. Clients in a process
of their own ask for the 12 cases most like a random image of the store, over kept connections, wait
for the answer, pause, and ask again; with headless Chromium (playwright) one more asks in the page
itself, from the click until the cases stand there. Server, clients and browser share the machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from embedstore.types import Floats, Recipe, Sample, Spec
from embedstore.writer import Writer

RESULT = Path(__file__).parent / "results" / "serve.json"
DIM, CLUSTERS, LATENT, K = 512, 500, 48, 12
BLOCK = 1 << 15
PAUSES = (1.0, 0.25, 0.0)
SECONDS = 20.0
MAIN = "from embedstore.cli import main; main()"


def say(what: str) -> None:
    """Say where it is."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def clustered(rng: np.random.Generator, centres: Floats, basis: Floats, n: int) -> Floats:
    """(n, 512) vectors in clusters, each spread in 48 common directions and a little."""
    spread = 0.9 / np.sqrt(LATENT) * rng.standard_normal((n, LATENT), dtype=np.float32) @ basis
    rest = 0.35 / np.sqrt(DIM) * rng.standard_normal((n, DIM), dtype=np.float32)
    made: Floats = centres[rng.integers(0, CLUSTERS, n)] + spread + rest
    return made


def write(path: Path, rows: int) -> None:
    """Make the store."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, DIM), dtype=np.float32) / np.sqrt(DIM)
    basis = rng.standard_normal((LATENT, DIM), dtype=np.float32) / np.sqrt(DIM)
    spec = Spec("clusters", "00", Recipe(), "pooled", DIM)
    with Writer(path) as writer:
        writer.add_spec(spec, {"precision": "float32"})
        for start in range(0, rows, BLOCK):
            at = np.arange(start, min(start + BLOCK, rows))
            samples = [
                Sample(
                    f"film{row:07d}",
                    Path("x.png"),
                    f"p{row // 4:06d}",
                    view=("CC", "MLO")[row % 2],
                    laterality="LR"[row // 2 % 2],
                    labels={
                        "density": "ABCD"[row // 4 % 4],
                        "vendor": f"v{row // 4 % 5}",
                        "age": str(40 + row // 4 % 40),
                    },
                )
                for row in at.tolist()
            ]
            writer.add_samples(samples)
            digests = np.zeros((len(at), 16), dtype=np.uint8)
            digests[:, :8] = at.astype("<i8")[:, None].view(np.uint8)
            writer.append(spec, at, clustered(rng, centres, basis, len(at)), digests)
            writer.commit()


def client(port: int, token: str, rows: int, pause: float, until: float, seed: int) -> list[float]:
    """Ask, wait, pause, ask again; the seconds of each round trip."""
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    time.sleep(rng.random() * max(pause, 0.1))
    taken = []
    while time.monotonic() < until:
        asked = {"ids": [f"film{rng.randrange(rows):07d}"], "k": K, "label": "density"}
        began = time.perf_counter()
        connection.request("POST", "/api/search", json.dumps(asked), headers)
        response = connection.getresponse()
        body = response.read()
        taken.append(time.perf_counter() - began)
        if response.status != 200:
            raise RuntimeError(body.decode())
        time.sleep(pause * 2 * rng.random())
    connection.close()
    return taken


def crowd(port: int, token: str, rows: int, clients: int, pause: float, seconds: float) -> None:
    """Run clients as threads, and print the round trips as JSON; what the other process does."""
    until, taken = time.monotonic() + seconds, list[float]()

    def work(seed: int) -> None:
        taken.extend(client(port, token, rows, pause, until, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(taken))


def summed(taken: list[float], seconds: float) -> dict[str, float]:
    """Milliseconds, and requests a second."""
    p50, p95, p99 = np.percentile(np.array(taken) * 1000, [50, 95, 99])
    return {
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "p99_ms": round(float(p99), 1),
        "requests_a_second": round(len(taken) / seconds, 1),
        "requests": len(taken),
    }


class Page:
    """The page in headless Chromium, asking as a person would."""

    def __init__(self, url: str) -> None:
        from playwright.sync_api import sync_playwright

        self._core = sync_playwright().start()
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        self._browser = self._core.chromium.launch(executable_path=path, args=["--no-sandbox"])
        self._page = self._browser.new_page()
        self._page.goto(url)
        self._page.wait_for_selector("#backbone option", state="attached")
        self._page.check("#search-form input[value=ids]")

    def searches(self, rows: int, seconds: float) -> list[float]:
        """From the click until the cases stand in the page, as the page itself measures it."""
        rng, until, taken = random.Random(99), time.monotonic() + seconds, []
        box = "document.querySelector('#search-results')"
        while time.monotonic() < until:
            self._page.fill("#search-form textarea[name=ids]", f"film{rng.randrange(rows):07d}")
            self._page.evaluate(f"delete {box}.dataset.milliseconds")
            self._page.click("#search-form button[type=submit]")
            self._page.wait_for_selector("#search-results[data-milliseconds]")
            taken.append(float(self._page.evaluate(f"{box}.dataset.milliseconds")) / 1000)
            time.sleep(1)
        return taken

    def close(self) -> None:
        """End the browser."""
        self._browser.close()
        self._core.stop()


def measured(url: str, rows: int, clients: int) -> dict[str, Any]:
    """Measure each pause, without and with the page."""
    found = re.fullmatch(r"http://[^/]+:(\d+)/#token=([\w-]+)", url)
    assert found, url
    others = [sys.executable, __file__, "--crowd", found[1], found[2], str(rows)]
    result: dict[str, Any] = {}
    for pause in PAUSES:
        run = subprocess.run(
            [*others, str(clients), str(pause), str(SECONDS)], capture_output=True, text=True
        )
        result[f"{clients} clients, pause {pause:g} s"] = summed(json.loads(run.stdout), SECONDS)
        say(f"pause {pause:g} s: {result[f'{clients} clients, pause {pause:g} s']}")
    if _has_browser():
        page = Page(url)
        with subprocess.Popen(
            [*others, str(clients - 1), "1", str(SECONDS * 2)], stdout=subprocess.PIPE, text=True
        ) as crowd_:
            taken = page.searches(rows, SECONDS * 2 - 2)
            crowd_.communicate()
        result[f"the page, beside {clients - 1} clients, pause 1 s"] = summed(taken, SECONDS * 2)
        page.close()
        say(f"the page: {result[f'the page, beside {clients - 1} clients, pause 1 s']}")
    return result


def _has_browser() -> bool:
    from importlib.util import find_spec

    return bool(find_spec("playwright") and shutil.which("chromium"))


def main() -> None:
    """Make the store, start the server, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--crowd", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.crowd:
        port, token, rows, clients, pause, seconds = given.crowd
        crowd(int(port), token, int(rows), int(clients), float(pause), float(seconds))
        return
    with tempfile.TemporaryDirectory() as temporary:
        store = (given.folder or Path(temporary)) / f"{given.rows}.zarr"
        if not store.exists():
            say(f"making {given.rows} rows")
            write(store, given.rows)
        command = [sys.executable, "-c", MAIN, "serve", str(store), "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            try:
                result = measured(url, given.rows, given.clients)
            finally:
                server.terminate()
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    RESULT.write_text(json.dumps({"rows": given.rows, **machine, **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
