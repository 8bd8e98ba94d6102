"""Lets every tox environment see the libraries of `base`: torch is downloaded and unpacked once, not ten times.

The path goes into a `.pth` file of the environment, since tox starts Python isolated (`-I`), where PYTHONPATH counts
for nothing. It is added as a site folder, so that its own `.pth` files are read: one of them is coverage's, which
measures child processes. An environment with another version of Python is left alone: it has its own dependencies.
"""

from __future__ import annotations

from pathlib import Path

from tox.plugin import impl
from tox.report import HandledError
from tox.tox_env.api import ToxEnv
from tox.tox_env.python.api import Python

BASE = "base"
LIGHT = ("py310", "py312", "py313")


@impl
def tox_before_run_commands(tox_env: ToxEnv) -> None:
    """Write the `.pth` file before anything is installed or run."""
    name = tox_env.conf.name
    if name in (BASE, *LIGHT) or not isinstance(tox_env, Python):
        return
    site = tox_env.env_site_package_dir()
    env_folder = Path(tox_env.conf["env_dir"])
    base_site = env_folder.parent / BASE / site.relative_to(env_folder)
    if not base_site.is_dir():
        raise HandledError(f"{name} needs the environment {BASE}: tox -e {BASE},{name}")
    (site / "luna_base.pth").write_text(f"import site; site.addsitedir({str(base_site)!r})\n", encoding="utf-8")
