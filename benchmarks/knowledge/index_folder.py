"""`luna index` of a folder of 1,000 mixed files, as a process: time, memory, and what a second run costs.

    python benchmarks/knowledge/index_folder.py FOLDER… [--files 1000] [--keep DIR] [--only pdf docx]
                                                [--json] [--output FILE]

The files (`folder_of_files.py`: text, Markdown, HTML, PDF, Word, CSV, JSON, YAML, XML, EPUB, ODT, zip, 2 to 40 kB of
text each) are made of the `.txt` and `.md` files below the folders. Then `luna index` runs as a whole process: `first`
into an empty knowledge base, `again` when nothing has changed, `ten` after ten files have. `MB` is what the files hold
on the disk; `processor` the seconds that the process and its children worked; `peak` the largest sum of their resident
memory, looked at 50 times a second. With `--only` the files have these endings alone. Needs `pip install fpdf2
python-docx pyyaml`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import folder_of_files
from figures import add_options, tell

PLUGINS = "rag,readers"


def children_of(process: int) -> list[int]:
    """The process and all below it."""
    found = [process]
    for number in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{number}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def resident(process: int) -> int:
    """Bytes of resident memory of a process and those below it."""
    total = 0
    for number in children_of(process):
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{number}/status").read_text(encoding="ascii"))
            total += 1024 * int(found[1]) if found else 0
    return total


def index(docs: Path, place: Path) -> dict[str, Any]:
    """Run `luna index`; what it printed, with seconds of the whole process and the peak of memory."""
    command = [sys.executable, "-m", "luna_kernel", "index", str(docs), "--kb", str(place), "--plugins", PLUGINS]
    begin, worked = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.02)
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - worked.ru_utime - worked.ru_stime
    assert process.stdout is not None
    found = json.loads(process.stdout.read())
    if process.returncode:
        raise SystemExit(found)
    return {**found, "wall": seconds, "processor": processor, "peak": peak}


def change(docs: Path, count: int) -> None:
    """Change some text files."""
    files = sorted(path for path in docs.rglob("*") if path.suffix in (".txt", ".md", ".html"))
    for path in files[:: max(1, len(files) // count)][:count]:
        with path.open("a", encoding="utf-8") as file:
            file.write("\n\nUma frase nova, que ainda não estava em nenhum documento.\n")


def run(docs: Path, place: Path, files: int) -> dict[str, Any]:
    """The three runs."""
    megabytes = sum(path.stat().st_size for path in docs.rglob("*") if path.is_file()) / 1e6
    time.sleep(2.5)  # a file that was written just before it is looked at is looked at again
    rows = {"first": index(docs, place), "again": index(docs, place)}
    change(docs, 10)
    rows["ten"] = index(docs, place)
    return {
        "files": files,
        "MB": megabytes,
        "chunks": rows["first"]["chunks"],
        "unread": len(rows["first"]["skipped"]),
        "updated": len(rows["ten"]["updated"]),
        **{name: row["wall"] for name, row in rows.items()},
        **{f"processor {name}": row["processor"] for name, row in rows.items()},
        **{f"peak {name}": row["peak"] / 2**20 for name, row in rows.items()},
    }


def main() -> None:
    """Make the folder, index it, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=sorted(folder_of_files.SHARES))
    parser.add_argument("--keep", type=Path, help="folder for the files, made if missing and kept")
    add_options(parser)
    options = parser.parse_args()
    if options.only:
        folder_of_files.SHARES = dict.fromkeys(options.only, 1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LUNA_HOME"] = str(Path(scratch) / "home")
        docs = options.keep or Path(scratch) / "docs"
        if not docs.is_dir():
            folder_of_files.make_folder(docs, folder_of_files.texts_of(options.folders), options.files)
        found = run(docs, Path(scratch) / "kb", options.files)
    tell(options, {"figures": found})
    if options.json:
        return
    print(f"{found['files']} files, {found['MB']:.1f} MB, {found['chunks']} chunks, {found['unread']} files not read")
    rates = f"{found['files'] / found['first']:.0f} files/s, {found['MB'] / found['first']:.2f} MB/s"
    remarks = {"first": rates, "again": "", "ten": f"{found['updated']} files updated"}
    print(f"{'':8}{'seconds':>9}{'processor':>11}{'peak MiB':>10}")
    for name, remark in remarks.items():
        figures = f"{found[name]:9.2f}{found[f'processor {name}']:11.2f}{found[f'peak {name}']:10.0f}"
        print(f"{name:<8}{figures}  {remark}")


if __name__ == "__main__":
    main()
