"""Calls beside the caller: in order, one at a time, and none is lost."""

import threading

import pytest

from psec_jax.training.beside import Beside


def test_calls_run_in_another_thread_in_their_order():
    seen = []
    with Beside() as beside:
        for number in range(5):
            beside(lambda n: seen.append((n, threading.current_thread())), number)
        beside.wait()
        assert [number for number, _ in seen] == list(range(5))
    assert {thread for _, thread in seen}.isdisjoint({threading.main_thread()})


def test_the_caller_goes_on_while_a_call_runs_and_the_next_call_waits_for_it():
    going, done = threading.Event(), []
    with Beside() as beside:
        beside(lambda: (going.wait(10), done.append("first")))
        assert not done
        going.set()
        beside(done.append, "second")
        assert done[0] == "first"
    assert done == ["first", "second"]


def fail():
    raise ValueError("no simulator")


@pytest.mark.parametrize("after", [lambda beside: beside.wait(), lambda beside: beside(print), id])
def test_what_a_call_raises_is_not_lost(after):
    with pytest.raises(ValueError, match="no simulator"), Beside() as beside:
        beside(fail)
        after(beside)


def test_leaving_by_an_error_waits_for_the_call_and_keeps_the_error():
    going, done = threading.Event(), []
    with pytest.raises(KeyError), Beside() as beside:
        beside(lambda: (going.wait(10), done.append("first")))
        threading.Timer(0.1, going.set).start()
        raise KeyError
    assert done == ["first"]
