"""Two processes count together under a lock and die by SIGKILL at random moments; prints what was lost as JSON.

python counter.py SHIM FOLDER SEED TRIALS
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from luna_kernel.base import durable, integrity


def count_in_file(root: Path, acknowledged: int) -> None:
    while True:
        with durable.lock(root / "lock", wait=10):
            number = integrity.read_json(root / "count.json")["count"] + 1
            durable.write_json(root / "count.json", {"count": number, "padding": "x" * 3000})
            os.write(acknowledged, f"{number}\n".encode())


def count_in_database(root: Path, acknowledged: int) -> None:
    connection = durable.open_database(root / "count.db")
    while True:
        with durable.transaction(connection):
            number = connection.execute("SELECT max(number) FROM count").fetchone()[0] + 1
            connection.execute("INSERT INTO count VALUES (?)", (number,))
        os.write(acknowledged, f"{number}\n".encode())


def count_in_folder(root: Path, acknowledged: int) -> None:
    while True:
        with durable.lock(root / "lock", wait=10):
            durable.recover(root / "run")
            number = integrity.read_json(root / "run" / "luna.json")["count"] + 1
            save_folder(root, number)
            os.write(acknowledged, f"{number}\n".encode())


def save_folder(root: Path, number: int) -> None:
    with durable.replace_folder(root / "run") as new:
        durable.write_text(new / "count.txt", f"{number} " * 500)
        durable.write_json(new / "luna.json", {"count": number, "files": integrity.seal(new)})


def prepare(root: Path) -> None:
    durable.write_json(root / "count.json", {"count": 0})
    connection = durable.open_database(root / "count.db")
    with durable.transaction(connection):
        connection.execute("CREATE TABLE count (number INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO count VALUES (0)")
    connection.close()
    save_folder(root, 0)


def read(root: Path, work: object) -> int:
    durable.sweep(root)
    if work is count_in_file:
        return int(integrity.read_json(root / "count.json")["count"])
    if work is count_in_folder:
        manifest = integrity.read_json(root / "run" / "luna.json")
        integrity.check(root / "run", manifest["files"])
        return int(manifest["count"])
    connection = durable.open_database(root / "count.db")
    numbers = [number for (number,) in connection.execute("SELECT number FROM count ORDER BY number")]
    connection.close()
    return len(numbers) - 1 if numbers == list(range(len(numbers))) else -1


def trial(root: Path, luck: random.Random) -> tuple[int, str | None]:
    """(how many counts were acknowledged, what is wrong or None)"""
    work = luck.choice((count_in_file, count_in_database, count_in_folder))
    root.mkdir()
    prepare(root)
    reading, writing = os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                work(root, writing)
            except BaseException as error:
                os.write(writing, f"-1 {error!r}\n".encode())
            os._exit(1)
        children.append(child)
    os.close(writing)
    for child in children:
        time.sleep(luck.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        lines = pipe.read().splitlines()
    failed = [line for line in lines if line.startswith("-1")]
    if failed:
        return 0, failed[0]
    numbers = [int(line) for line in lines]
    try:
        found = read(root, work)
    except BaseException as error:
        return len(numbers), f"{work.__name__}: the reader failed: {error!r}"
    if len(set(numbers)) != len(numbers) or found < max(numbers, default=0):
        return len(numbers), f"{work.__name__}: acknowledged {numbers[-3:]}, found {found}"
    left = [path.name for path in root.rglob("*") if ".luna-" in path.name]
    return len(numbers), f"{work.__name__}: orphans left: {left}" if left else None


def main() -> None:
    folder, seed, trials = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    luck = random.Random(seed)
    outcomes = [trial(folder / str(number), luck) for number in range(trials)]
    acknowledged = sum(count for count, _ in outcomes)
    print(json.dumps({"acknowledged": acknowledged, "wrong": [wrong for _, wrong in outcomes if wrong]}))


if __name__ == "__main__":
    main()
