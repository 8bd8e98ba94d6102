"""Real servers: one that a Python package carries with pgvector, and the system's, which mostly has no pgvector.

PostgreSQL does not run as root, so under root the programs and the data lie in a folder of an unprivileged user's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from luna_kernel.plugins import load_plugins
from luna_kernel.plugins.registry import Registry

PASSWORD = "s3nh4-muito-secreta"
USER = "nobody"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LUNA_LANG", "pt_BR")
    monkeypatch.delenv("LUNA_PGVECTOR_DSN", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_plugins("rag,pgvector").registry


def carried() -> Path | None:
    """The PostgreSQL of the package pgserver, which has pgvector."""
    found = importlib.util.find_spec("pgserver")
    return None if found is None or found.origin is None else Path(found.origin).parent / "pginstall"


def of_the_system() -> Path | None:
    """Debian's newest PostgreSQL, or the one on the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = str(folders[-1]) if folders else shutil.which("initdb")
    return Path(found).resolve().parent.parent if found else None


class Cluster:
    """A server with a password on a free port of this machine, which can be killed and started again.

    Args:
        install: where its programs are.
        copy: copy them first; the environment may lie in a folder that only root may enter.
    """

    def __init__(self, install: Path, *, copy: bool) -> None:
        root = os.geteuid() == 0
        self._as_user = {"user": USER, "group": "nogroup", "extra_groups": []} if root else {}
        self.folder = Path(tempfile.mkdtemp(prefix="luna-pg-"))
        if root:
            self.folder.chmod(0o755)
            if copy:
                package = install.parent  # its programs look for their libraries three folders up
                shutil.copytree(package.with_name("pgserver.libs"), self.folder / "pgserver.libs", symlinks=True)
                shutil.copytree(install, self.folder / "pgserver" / "pginstall", symlinks=True)
                install = self.folder / "pgserver" / "pginstall"
        self._bin, self._data = install / "bin", self.folder / "data"
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self._data.mkdir(mode=0o700)
        if root:
            shutil.chown(self._data, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        make = [self._bin / "initdb", "-D", self._data, "-U", "luna", "--auth=scram-sha-256", f"--pwfile={secret}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": self.folder}
        subprocess.run([*make, "-E", "UTF8", "--locale=C"], check=True, **quiet, **self._as_user)  # type: ignore[call-overload]
        self.dsn = f"postgresql://luna:{PASSWORD}@127.0.0.1:{self._port}/postgres"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-p", str(self._port), "-c", "listen_addresses=127.0.0.1", "-k", str(self._data), "-c", "fsync=off"]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._as_user,
            )  # type: ignore[call-overload]
        for _ in range(600):
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.dsn).close()
                return
            assert self._server.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)
        pytest.fail("the server does not answer")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """At once; SIGTERM would wait for connections, SIGQUIT is a crash without a checkpoint."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(30)
            self._server = None


@contextlib.contextmanager
def running(install: Path, *, copy: bool) -> Iterator[Cluster]:
    """A server that runs, and is gone afterwards."""
    cluster = Cluster(install, copy=copy)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_with_vectors() -> Iterator[Cluster]:
    install = carried()
    if install is None:
        pytest.skip("the package pgserver, whose PostgreSQL has pgvector, is not installed")
    with running(install, copy=True) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def plain_server() -> Iterator[str]:
    install = of_the_system()
    if install is None:
        pytest.skip("no PostgreSQL of the system is installed")
    with running(install, copy=False) as cluster:
        yield cluster.dsn


@pytest.fixture
def vectors(server_with_vectors: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", server_with_vectors.dsn)
    return server_with_vectors.dsn


@pytest.fixture
def cluster(server_with_vectors: Cluster, vectors: str) -> Iterator[Cluster]:
    """The server itself, to be stopped; it runs again afterwards."""
    yield server_with_vectors
    server_with_vectors.stop()
    server_with_vectors.start()


@pytest.fixture
def plain(plain_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", plain_server)
    return plain_server
