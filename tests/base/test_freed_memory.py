"""Freed memory is kept while it is asked for and given back after that; each in a process of its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from luna_kernel.base.freed_memory import keep_freed_memory

SCRIPT = """
import ctypes, json, re, resource
from contextlib import nullcontext
from pathlib import Path
from luna_kernel.base.freed_memory import keep_freed_memory

malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

def use(size=48 << 20):
    piece = malloc(size)
    ctypes.memset(piece, 1, size)
    free(piece)

def again():
    use()
    before = faults()
    for _ in range(4):
        use()
    return faults() - before

found = {"before": again(), "resident": resident()}
with keep_freed_memory() as found["kept"]:
    found["inside"] = again()
    found["resident inside"] = resident()
found["after"], found["resident after"] = again(), resident()
print(json.dumps(found))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has it")


def measure(**variables: str) -> dict[str, int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env={**clean, **variables}
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_pages_are_kept_inside_and_given_back_after() -> None:
    found = measure()
    pages = 4 * (48 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert found["kept"]
    assert found["before"] > 0.9 * pages or found["before"] > 0.9 * pages / 512, (
        "each time anew, in small or huge pages"
    )
    assert found["inside"] < 0.02 * found["before"]
    assert found["after"] > 0.9 * found["before"]
    assert found["resident inside"] > found["resident"] + 40
    assert found["resident after"] < found["resident"] + 8


def test_what_the_user_has_set_stays() -> None:
    for variables in ({"MALLOC_MMAP_THRESHOLD_": "65536"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=65536"}):
        found = measure(**variables)
        assert not found["kept"]
        assert found["inside"] > 0.9 * found["before"]


def test_an_error_inside_gives_it_back_too() -> None:
    with pytest.raises(ZeroDivisionError), keep_freed_memory():
        1 / 0  # noqa: B018
