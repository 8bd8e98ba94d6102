"""Continuous batching: each request gets what it would get alone, and none can spoil another."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from luna_plugin_serve.engine import Engine, QueueFullError
from luna_plugin_serve.jobs import Job, Tally, Thought
from luna_plugin_serve.reading import Reading

from luna_kernel.base.errors import UsageError
from luna_kernel.model.decoder import Decoder
from luna_kernel.model.generation import generate
from luna_kernel.model.sampling_config import Sampling

END = 60


class Letters:
    """A tokenizer of 61 tokens, one character each."""

    def stream(self) -> Any:
        return self

    def push(self, id_: int) -> str:
        return chr(0x40 + id_)

    def flush(self) -> str:
        return ""


class Heard(Job):
    """A job that keeps what it is told."""

    text = ""
    reason: str | None = None

    def __init__(self, prompt: list[int], sampling: Sampling, max_tokens: int = 20, **fields: Any) -> None:
        self.done = threading.Event()
        super().__init__(prompt, sampling, max_tokens, frozenset({END}), self.hear, **fields)

    def hear(self, text: str, reason: str | None) -> None:
        self.text += text
        if reason is not None:
            assert self.reason is None, "told its end twice"
            self.reason = reason
            self.done.set()

    def wait(self) -> Heard:
        assert self.done.wait(30)
        return self


GREEDY = Sampling(temperature=0.0, repetition_penalty=1.0)


@pytest.fixture
def engine(decoder: Decoder) -> Iterator[Engine]:
    engine = Engine(decoder, Letters(), max_batch=4, max_queue=3)
    yield engine
    engine.close()


def alone(decoder: Decoder, job: Job) -> str:
    with torch.inference_mode():
        run = generate(decoder, job.prompt, job.sampling, end_ids=[END], max_tokens=job.max_tokens)
        return "".join(chr(0x40 + token) for token in run)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=0.8, seed=5),
        Sampling(temperature=1.0, top_k=9, top_p=0.9, repetition_penalty=1.3, seed=1),
    ],
)
def test_together_as_alone(decoder: Decoder, engine: Engine, sampling: Sampling) -> None:
    prompts = [[1, 2, 3], [9] * 40, [5], [7, 8, 9, 10], [30, 31], [4, 4], [11, 3]]
    jobs = [Heard(prompt, sampling, 6 + 3 * place) for place, prompt in enumerate(prompts)]
    for job in jobs:
        engine.submit(job)
        time.sleep(0.003)
    for job in jobs:
        assert job.wait().text == alone(decoder, job)


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1.5, seed=2, repetition_penalty=1.3), Sampling(temperature=1.5, seed=5)]
)
def test_a_thought_and_its_answer_are_what_two_generations_give(
    decoder: Decoder, engine: Engine, sampling: Sampling
) -> None:
    prompt = [1, 2, 3]

    def speak(ids: list[int], ends: set[int]) -> list[int]:
        with torch.inference_mode():
            return list(generate(decoder, ids, sampling, end_ids=ends, max_tokens=12, read_ids=[]))

    unbroken = speak(prompt, set())
    end = next(token for token in unbroken if token != unbroken[0])
    thought = speak(prompt, {end})
    answer = speak([*prompt, *thought, end, 7, 8], {end})
    assert 0 < len(thought) < 12
    mused: list[str] = []
    others = [Heard([5, 6], GREEDY, 40), Heard([9] * 30, GREEDY, 40)]
    job = Heard(prompt, sampling, 12, thought=Thought(mused.append, (end, 7, 8)))
    job.end_ids = frozenset({end})
    engine.submit(*others, job)
    assert job.wait().reason in ("stop", "length")
    assert "".join(mused) == "".join(chr(0x40 + token) for token in thought)
    assert job.text == "".join(chr(0x40 + token) for token in answer)
    assert (job.mused, job.made) == (len(thought), len(thought) + len(answer))
    assert [other.wait().text for other in others] == [alone(decoder, other) for other in others]


def test_a_thought_without_an_end_is_all_there_is(engine: Engine) -> None:
    mused: list[str] = []
    job = Heard([1, 2], GREEDY, 5, thought=Thought(mused.append, (END, 7)))
    job.end_ids = frozenset()
    engine.submit(job)
    assert (job.wait().reason, job.text, len("".join(mused))) == ("length", "", 5)


def test_jobs_of_different_sampling_share_a_batch(decoder: Decoder, engine: Engine) -> None:
    kinds = [GREEDY, Sampling(temperature=0.9, seed=3), Sampling(temperature=0.9, seed=4), GREEDY]
    jobs = [Heard([20, 21], kind) for kind in kinds]
    engine.submit(*jobs)
    assert [job.wait().text for job in jobs] == [alone(decoder, job) for job in jobs]


def test_ends(decoder: Decoder, engine: Engine) -> None:
    long = Heard([3] * 90, GREEDY, 50)
    short = Heard([3, 4], GREEDY, 2)
    engine.submit(long, short)
    assert (short.wait().reason, short.made) == ("length", 2)
    assert long.wait().reason in ("length", "stop")
    assert long.made <= 6
    text = alone(decoder, Heard([3, 4], GREEDY, 20))
    stopped = Heard([3, 4], GREEDY, 20, stop=(text[3:5],))
    engine.submit(stopped)
    assert (stopped.wait().reason, stopped.text) == ("stop", text[: text.index(text[3:5])])


def test_cancel_and_timeout_spoil_nobody(decoder: Decoder, engine: Engine) -> None:
    dropped, late, stays = (
        Heard([1], GREEDY, 80),
        Heard([2], GREEDY, 80, deadline=time.monotonic()),
        Heard([5, 6], GREEDY, 40),
    )
    engine.submit(dropped, late, stays)
    dropped.cancel()
    assert (dropped.wait().reason, late.wait().reason) == ("cancelled", "timeout")
    assert stays.wait().text == alone(decoder, stays)
    assert (engine.running, engine.waiting) == (0, 0)


def test_requests_that_come_from_other_threads(decoder: Decoder) -> None:
    """The engine walks over a long queue while others add to it; threads take turns every microsecond."""
    engine = Engine(decoder, Letters(), max_batch=2, max_queue=100_000)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def flood() -> None:
        for _ in range(1000):
            engine.submit(Heard([1], GREEDY, 1, deadline=time.monotonic() + 0.5))

    stays = Heard([5, 6], GREEDY, 60)
    engine.submit(stays)
    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    assert stays.wait().text == alone(decoder, stays)
    engine.close()


def test_a_full_queue_refuses(engine: Engine) -> None:
    engine.submit(*(Heard([1], GREEDY, 60) for _ in range(7)))
    with pytest.raises(QueueFullError):
        engine.submit(*(Heard([1], GREEDY, 60) for _ in range(8)))


def test_a_prompt_without_room_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="96"):
        engine.submit(Heard([1] * 96, GREEDY))


def test_a_job_that_fails_fails_alone(decoder: Decoder, engine: Engine) -> None:
    bad, good = Heard([1, 999], GREEDY), Heard([5, 6], GREEDY)
    engine.submit(bad, good)
    assert bad.wait().reason == "error"
    assert isinstance(bad.error, IndexError)
    assert good.wait().text == alone(decoder, good)


def test_prompts_that_are_read_together_fail_alone(decoder: Decoder, engine: Engine) -> None:
    """Of prompts that wait together, and are read as one, only those with a fault of their own fail."""
    jobs = [Heard([5, 6], GREEDY), Heard([1, 999], GREEDY), Heard([7], GREEDY)]
    penalized = Heard([1, 999], Sampling(temperature=0.0, repetition_penalty=1.2))
    with engine.exclusively():  # so that all of them wait
        engine.submit(*jobs, penalized)
        time.sleep(0.05)
    assert [job.wait().reason == "error" for job in (*jobs, penalized)] == [False, True, False, True]
    assert [jobs[place].text for place in (0, 2)] == [alone(decoder, jobs[place]) for place in (0, 2)]


def test_short_prompts_are_read_together(decoder: Decoder) -> None:
    """Of those that wait the first ones, as long as padding is a small part of what is read; all at once, or not."""
    reading = Reading(decoder, Letters(), Tally())

    def fitting(*lengths: int, room: int = 9) -> int:
        return reading.fitting([Heard([1] * length, GREEDY) for length in lengths], room)

    assert fitting(10, 9, 8, 10) == 4
    assert fitting(10, 9, 8, 10, room=2) == 2
    assert fitting(10, 9, 1, 1, 1, 1) == 3
    assert fitting(300, 10) == 1
    assert fitting(90, 90, 90) == 2
    assert fitting() == fitting(5, room=0) == 0


def test_a_draw_that_fails_fails_alone(decoder: Decoder, engine: Engine) -> None:
    """What cannot be drawn from, at the first token or later, ends with an error, and the others go on."""
    broken = Sampling.model_construct(**{**GREEDY.model_dump(), "temperature": "cold"})
    good = Heard([3, 4, 5], GREEDY)
    first = Heard([3, 4, 5], broken)
    soon = Sampling(temperature=0.0, top_k=1)
    later = Heard([3, 4, 5], soon, max_tokens=80)
    engine.submit(good, first, later)
    soon.__dict__["temperature"] = "cold"
    assert first.wait().reason == "error"
    assert later.wait().reason == "error"
    assert good.wait().reason in ("stop", "length")
    assert Heard.wait(_submitted(engine, Heard([3, 4, 5], GREEDY))).text == good.text


def _submitted(engine: Engine, job: Heard) -> Heard:
    engine.submit(job)
    return job


def test_closing_ends_everything(decoder: Decoder) -> None:
    engine = Engine(decoder, Letters(), max_batch=2)
    jobs = [Heard([1], GREEDY, 90) for _ in range(5)]
    engine.submit(*jobs)
    engine.close()
    assert not engine.alive
    assert {job.wait().reason for job in jobs} <= {"cancelled", "length", "stop"}
