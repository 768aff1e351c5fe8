import jax
import numpy as np
import pytest

from psec_jax import Training
from psec_jax.training import Checkpoints


@pytest.mark.parametrize("name", ["steps", "batch_size", "every", "chunk"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2"])
def test_counts_are_integers_of_at_least_one(name, value):
    with pytest.raises(
        ValueError, match=f"^{name} must be an integer of at least 1, not {value!r}"
    ):
        Training(**{"steps": 2, name: value})


def test_counts_may_be_numpys_or_jaxs():
    training = Training(np.int64(3), jax.numpy.int32(4))
    assert (type(training.steps), type(training.batch_size)) == (int, int)
    assert training == Training(3, 4)


def test_states_need_a_label(tmp_path):
    with pytest.raises(ValueError, match="checkpoints need a label"):
        Training(2, checkpoints=Checkpoints(tmp_path))


def test_the_best_needs_a_score_and_a_place(tmp_path):
    checkpoints = {"checkpoints": Checkpoints(tmp_path), "label": "x"}
    for lacking in (checkpoints, {"inspect": print}):
        with pytest.raises(ValueError, match="best needs checkpoints, and an inspect"):
            Training(2, best=True, **lacking)


def test_what_inspects_is_a_function():
    with pytest.raises(ValueError, match="inspect must be a function, not 100"):
        Training(2, inspect=100)


@pytest.mark.parametrize("optimizer", ["adam", 1e-3, print])
def test_an_optimizer_is_ours_or_optaxs(optimizer):
    with pytest.raises(ValueError, match=r"a psec_jax.Optimizer or an optax transformation"):
        Training(2, optimizer=optimizer)
