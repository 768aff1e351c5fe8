"""Calls beside the caller: in order, one at a time, and none is lost."""

import threading

import pytest

from psec_jax.training.background import BackgroundWorker


def test_calls_run_in_another_thread_in_their_order():
    seen = []
    with BackgroundWorker() as worker:
        for number in range(5):
            worker(lambda n: seen.append((n, threading.current_thread())), number)
        worker.wait()
        assert [number for number, _ in seen] == list(range(5))
    assert {thread for _, thread in seen}.isdisjoint({threading.main_thread()})


def test_the_caller_goes_on_while_a_call_runs_and_the_next_call_waits_for_it():
    going, done = threading.Event(), []
    with BackgroundWorker() as worker:
        worker(lambda: (going.wait(10), done.append("first")))
        assert not done
        going.set()
        worker(done.append, "second")
        assert done[0] == "first"
    assert done == ["first", "second"]


def fail():
    raise ValueError("no simulator")


@pytest.mark.parametrize("after", [lambda worker: worker.wait(), lambda worker: worker(print), id])
def test_what_a_call_raises_is_not_lost(after):
    with pytest.raises(ValueError, match="no simulator"), BackgroundWorker() as worker:
        worker(fail)
        after(worker)


def test_leaving_by_an_error_waits_for_the_call_and_keeps_the_error():
    going, done = threading.Event(), []
    with pytest.raises(KeyError), BackgroundWorker() as worker:
        worker(lambda: (going.wait(10), done.append("first")))
        threading.Timer(0.1, going.set).start()
        raise KeyError
    assert done == ["first"]
