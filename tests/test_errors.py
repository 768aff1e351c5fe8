import pickle

import pytest

from psec_jax.errors import BaseMismatch, BrokenFile, OtherTraining


@pytest.mark.parametrize(
    "error", [BaseMismatch("a", "1", "b", "2"), BrokenFile("torn"), OtherTraining("other")]
)
def test_an_error_reaches_another_process_as_it_is(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
    assert isinstance(error, ValueError)
