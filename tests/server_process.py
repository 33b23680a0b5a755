"""A real ``embedstore serve``, in a process of its own or in a thread, asked over a socket."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

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


class Client:
    """Asks a server that has a port and a token."""

    port: int
    token: str

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


class Served(Client):
    """The same server in a thread of this process, which has all imported already."""

    def __init__(self, store: Path, **settings: Any) -> None:
        from embedstore.server.app import listen, prepared
        from embedstore.server.settings import Settings

        asked = Settings(store, **settings)
        self._listening = listen(asked)
        asked = replace(asked, port=self._listening.getsockname()[1])
        self.port, self.token, self.url = asked.port, asked.token, asked.address
        self._server = prepared(asked)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listening]}
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._listening.close()


class Server(Client):
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

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.probe = folder, folder / "s.zarr", folder / "density-probe"
        folder.mkdir(exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever comes second waits
            if not self.probe.exists():
                self._make(str(folder / "films"))
        self.store = Store.open(self.path)
        self.spec = self.store.find("phantom-clip")
        self.table = self.store.table("phantom-clip")
        self.vectors = self.store.vectors("phantom-clip").astype(np.float64)
        self.unit = self.vectors / np.linalg.norm(self.vectors, axis=1, keepdims=True)
        self.ids: list[str] = self.table["id"].to_list()
        self.patients: list[str] = self.table["group"].to_list()
        self.density: list[str] = self.table["density"].to_list()

    @classmethod
    def shared(cls, factory: pytest.TempPathFactory) -> Films:
        """Make them once for all files of tests, which only read them, and all workers."""
        base = factory.getbasetemp()
        alone = "PYTEST_XDIST_WORKER" not in os.environ
        return cls((base if alone else base.parent) / "server-films")

    def _make(self, films: str) -> None:
        assert _run(["phantoms", films, "--patients", "10", "--size", "128"], False) == 0
        extract = ["extract", f"{films}/manifest.csv", "--store", str(self.path), "--keep-pixels"]
        clip = ["--backbone", "phantom-clip", "--patient-ids", "keep"]
        assert _run([*extract, *clip], False) == 0
        probe = ["probe", str(self.path), "--label", "density", "--head", "logistic"]
        assert _run([*probe, "--folds", "2", "--save", str(self.probe)], False) == 0

    def best(self, query: np.ndarray, k: int, passing: np.ndarray | None = None) -> list[str]:
        """Ids of the k most alike of those that pass, by numpy alone."""
        order = np.argsort(-(self.unit @ query))
        return [self.ids[j] for j in order if passing is None or passing[j]][:k]

    def others(self, patient: str) -> np.ndarray:
        return np.array(self.patients) != patient
