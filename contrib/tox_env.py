"""What the environments of tox.ini do besides testing: build wheels, install some of them, and look what is there.

    python contrib/tox_env.py build             all wheels, into .tox/wheels
    python contrib/tox_env.py install NAME      the kernel and the plugins of environment NAME (none, all, or a plugin)
    python contrib/tox_env.py expect NAME       fail unless exactly these plugins are installed, and all are on

The last is there because tox is content with an environment that tests nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLUGINS = ROOT / "luna_plugins"
WHEELS = ROOT / ".tox" / "wheels"
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "tests", "docs", "benchmarks", "contrib", "luna_plugins", "venv"
)


def project(name: str) -> dict[str, Any]:
    """The `[project]` table of a plugin."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    table: dict[str, Any] = tomllib.loads((PLUGINS / name / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def names() -> list[str]:
    """All plugins of the repository."""
    return sorted(file.parent.name for file in PLUGINS.glob("*/pyproject.toml"))


def closure(env: str) -> list[str]:
    """The plugins of an environment: those it is named after, and those that they depend on."""
    if env == "none":
        return []
    wanted = names() if env == "all" else [env]
    for name in wanted:  # grows while it is walked
        for text in project(name).get("dependencies", []):
            match = re.match(r"luna-plugin-([a-z0-9-]+)", text)
            other = match[1].replace("-", "_") if match else None
            if other and other not in wanted:
                wanted.append(other)
    return sorted(wanted)


def pip(*arguments: str) -> None:
    """Run this environment's pip."""
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True, cwd=ROOT)


def build() -> None:
    """Build from copies: a `build` folder in the source tree would carry removed modules into the wheels."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for source in [ROOT, *(PLUGINS / name for name in names())]:
            copy = Path(scratch) / source.name
            if source == ROOT:
                # `contrib` and the like are left out by name, and nothing of the kind is inside the package.
                shutil.copytree(source, copy, ignore=LEFT_OUT, symlinks=True)
                shutil.copytree(ROOT / "luna_kernel", copy / "luna_kernel", dirs_exist_ok=True)
            else:
                shutil.copytree(source, copy, ignore=LEFT_OUT)
            folders.append(str(copy))
        pip("wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(WHEELS), *folders)


def install(env: str) -> None:
    """The wheels as they are now, also when the version is the same as before; then what the plugins need."""
    plugins = closure(env)
    stems = ["luna_kernel", *(f"luna_plugin_{name}" for name in plugins)]
    wheels = [str(next(WHEELS.glob(f"{stem}-*.whl"))) for stem in stems]
    pip("install", "-q", "--force-reinstall", "--no-deps", "--no-index", *wheels)
    needed = []
    for name in plugins:
        table = project(name)
        needed += table.get("dependencies", []) + table.get("optional-dependencies", {}).get("test", [])
    needed = sorted({text for text in needed if not text.startswith("luna-")})
    if needed:
        pip("install", "-q", "-c", str(ROOT / "constraints.txt"), *needed)


def expect(env: str) -> None:
    """Compare what `luna plugins` says with what the environment should have."""
    command = [sys.executable, "-m", "luna_kernel", "plugins", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tempfile.gettempdir())
    found = {row["name"]: row["state"] for row in json.loads(done.stdout)["plugins"]}
    wanted = dict.fromkeys(closure(env), "on")
    if found != wanted:
        sys.exit(f"{env}: expected {wanted or 'no plugins'}, found {found or 'none'}\n{done.stderr}")
    print(f"{env}: {', '.join(wanted) or 'no plugins'}")


if __name__ == "__main__":
    {"build": lambda: build(), "install": lambda: install(sys.argv[2]), "expect": lambda: expect(sys.argv[2])}[
        sys.argv[1]
    ]()
