"""A reader: what is written is read, by name, and by an experiment."""

import numpy as np

import psec_jax as psec
from extending.environment import demonstrations


def test_a_file_of_its_suffix_is_read(files):
    data, written = psec.load_dataset(str(files["east"])), demonstrations("east", 4)
    for name, array in written.arrays().items():
        np.testing.assert_allclose(data.arrays()[name], array, rtol=1e-6, atol=1e-8)
    assert len(psec.load_dataset(files["east"], trajectories=2).returns) == 2
