"""Threads are chosen by what a pass takes; nothing here depends on how fast the machine is."""

import time
from types import SimpleNamespace

import pytest
import torch

from luna_kernel.model.decoding_threads import DecodingThreads


class Timed:
    """A model whose pass takes so many seconds with one thread, and with more."""

    def __init__(self, one, more):
        self.seconds = {1: one}
        self.more = more
        self.embedding = SimpleNamespace(weight=torch.zeros(1))
        self.dims = SimpleNamespace(max_positions=64)

    def make_state(self, batch, max_length):
        return SimpleNamespace(max_length=max_length)

    def __call__(self, tokens, state, last_only):
        time.sleep(self.seconds.get(torch.get_num_threads(), self.more))


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_one_thread_where_more_are_slower():
    threads = DecodingThreads(Timed(0.0, 0.01))
    assert (threads.few, threads.most, torch.get_num_threads()) == (1, 2, 2)
    with threads.for_tokens(1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    threads.settle()
    with threads.for_tokens(512):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1


def test_all_threads_where_they_help():
    threads = DecodingThreads(Timed(0.03, 0.0))
    assert (threads.few, torch.get_num_threads()) == (2, 2)
    with threads.for_tokens(1):
        assert torch.get_num_threads() == 2


def test_what_the_user_allows_is_not_exceeded():
    torch.set_num_threads(1)
    assert DecodingThreads(Timed(1.0, 0.0)).few == 1


def test_a_model_that_cannot_run_stays_as_it_is():
    model = Timed(0.0, 0.0)
    model.seconds = {2: "never"}
    assert DecodingThreads(model).few == 2
