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


@contextlib.contextmanager
def running(install: Path, *, copy: bool) -> Iterator[str]:
    """Start a server with a password on a free port of this machine; gives its connection string."""
    root = os.geteuid() == 0
    as_user = {"user": USER, "group": "nogroup", "extra_groups": []} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="luna-pg-"))
    try:
        if root:
            folder.chmod(0o755)
            if copy:  # the environment may lie in a folder that only root may enter
                package = install.parent  # its programs look for their libraries three folders up
                shutil.copytree(package.with_name("pgserver.libs"), folder / "pgserver.libs", symlinks=True)
                shutil.copytree(install, folder / "pgserver" / "pginstall", symlinks=True)
                install = folder / "pgserver" / "pginstall"
        secret, data = folder / "password", folder / "data"
        secret.write_text(PASSWORD)
        data.mkdir(mode=0o700)
        if root:
            shutil.chown(data, USER)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        bin_ = install / "bin"
        make = [bin_ / "initdb", "-D", data, "-U", "luna", "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "cwd": folder}
        subprocess.run([*make, "--locale=C"], check=True, **quiet, **as_user)  # type: ignore[call-overload]
        options = ["-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", str(data), "-c", "fsync=off"]
        log = (folder / "log").open("wb")
        server = subprocess.Popen(
            [bin_ / "postgres", "-D", data, *options], stdout=log, stderr=log, cwd=folder, **as_user
        )  # type: ignore[call-overload]
        dsn = f"postgresql://luna:{PASSWORD}@127.0.0.1:{port}/postgres"
        try:
            for _ in range(300):
                with contextlib.suppress(psycopg.OperationalError):
                    psycopg.connect(dsn).close()
                    break
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield dsn
        finally:
            server.send_signal(signal.SIGINT)  # at once; SIGTERM would wait for connections
            server.wait(30)
            log.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def server_with_vectors() -> Iterator[str]:
    install = carried()
    if install is None:
        pytest.skip("the package pgserver, whose PostgreSQL has pgvector, is not installed")
    with running(install, copy=True) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def plain_server() -> Iterator[str]:
    install = of_the_system()
    if install is None:
        pytest.skip("no PostgreSQL of the system is installed")
    with running(install, copy=False) as dsn:
        yield dsn


@pytest.fixture
def vectors(server_with_vectors: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", server_with_vectors)
    return server_with_vectors


@pytest.fixture
def plain(plain_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", plain_server)
    return plain_server
