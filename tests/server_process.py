"""A real ``embedstore serve`` in a process of its own, asked over a socket."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from embedstore.cli import _run
from embedstore.store import Store

SERVE = [sys.executable, "-c", "from embedstore.cli import main; main()", "serve"]


class Reply:
    """Status, headers and body of an answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.body = response.status, response.read()
        self.headers = {k.lower(): v for k, v in response.getheaders()}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """Started with some options; stopped by `stop`."""

    def __init__(self, store: Path, temporary: Path, *options: object) -> None:
        temporary.mkdir(exist_ok=True)
        self.temporary = temporary
        command = [*SERVE, str(store), "--port", "0", *map(str, options)]
        environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        self.log = (temporary / "log").open("w+")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        found = re.fullmatch(r"http://([^/]+):(\d+)/#token=([\w-]+)", self.url)
        assert found, self.url + self.said()
        self.port, self.token = int(found[2]), found[3]

    def said(self) -> str:
        self.log.flush()
        return (self.temporary / "log").read_text()

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> Reply:
        """Send a request as it is, its path not normalised."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host="Host" in headers)
            sent = {"Content-Length": str(len(body))} if body is not None else {}
            for name, value in {**sent, **headers}.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    @property
    def _bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, **values: object) -> Reply:
        return self.raw("GET", f"/api/{path}?{urlencode(values)}", headers=self._bearer)

    def post(self, path: str, **values: object) -> Reply:
        headers = {**self._bearer, "Content-Type": "application/json"}
        return self.raw("POST", f"/api/{path}", json.dumps(values).encode(), headers)

    def send(self, path: str, body: bytes, **values: object) -> Reply:
        headers = {**self._bearer, "Content-Type": "application/octet-stream"}
        return self.raw("POST", f"/api/upload/{path}?{urlencode(values)}", body, headers)

    def left(self) -> list[str]:
        """Names of the uploads that lie there now."""
        return [p.name for d in self.temporary.glob("embedstore-serve-*") for p in d.iterdir()]

    def files(self) -> int:
        """Count the files the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def memory(self) -> int:
        """Bytes of memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.findall(r"VmRSS:\s+(\d+)", status)[0])

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()
        return code


class Films:
    """Phantoms in a store by phantom-clip with their pictures, a probe, and unit vectors."""

    def __init__(self, folder: Path, patients: int = 10) -> None:
        self.folder, self.path, self.probe = folder, folder / "s.zarr", folder / "density-probe"
        films = str(folder / "films")
        made = ["phantoms", films, "--patients", str(patients), "--size", "128"]
        assert _run(made, False) == 0
        extract = ["extract", f"{films}/manifest.csv", "--store", str(self.path), "--keep-pixels"]
        clip = ["--backbone", "phantom-clip", "--patient-ids", "keep"]
        assert _run([*extract, *clip], False) == 0
        probe = ["probe", str(self.path), "--label", "density", "--head", "logistic"]
        assert _run([*probe, "--folds", "2", "--save", str(self.probe)], False) == 0
        self.store = Store.open(self.path)
        self.spec = self.store.find("phantom-clip")
        self.table = self.store.table("phantom-clip")
        self.vectors = self.store.vectors("phantom-clip").astype(np.float64)
        self.unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.ids: list[str] = self.table["id"].to_list()
        self.patients: list[str] = self.table["group"].to_list()
        self.density: list[str] = self.table["density"].to_list()

    def best(self, query: np.ndarray, k: int, passing: np.ndarray | None = None) -> list[str]:
        """Ids of the k most alike of those that pass, by numpy alone."""
        order = np.argsort(-(self.unit @ query))
        return [self.ids[j] for j in order if passing is None or passing[j]][:k]

    def others(self, patient: str) -> np.ndarray:
        return np.array(self.patients) != patient
