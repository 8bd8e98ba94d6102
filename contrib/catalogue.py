"""Write the catalogue of Luna's own plugins anew: `python contrib/catalogue.py` in an environment that has them all.

Each folder of `luna_plugins/` gives the name, distribution and description; its light module says what it brings.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from luna_kernel.plugins import load_plugins

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent


def make() -> dict[str, dict[str, object]]:
    """The catalogue as it should be."""
    folders = sorted(file.parent for file in (ROOT / "luna_plugins").glob("*/pyproject.toml"))
    plugins = load_plugins(",".join(folder.name for folder in folders))
    catalogue = {}
    for folder in folders:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        components = [f"{item.kind}:{item.name}" for item in plugins.registry.of_plugin(folder.name)]
        catalogue[folder.name] = {
            "distribution": project["name"],
            "help": project["description"],
            "components": sorted(components),
        }
    return catalogue


if __name__ == "__main__":
    file = ROOT / "luna_kernel" / "plugins" / "known_plugins.json"
    file.write_text(json.dumps(make(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(f"written: {file.relative_to(ROOT)}")
