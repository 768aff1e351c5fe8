"""A reader: what is written is read, by name, and by an experiment."""

import numpy as np

import psec_jax as psec
from extending.environment import demonstrations


def test_a_file_of_its_suffix_is_read(files):
    data, written = psec.load_dataset(str(files["east"])), demonstrations("east", 4)
    for name, array in written.arrays().items():
        np.testing.assert_allclose(data.arrays()[name], array, rtol=1e-6, atol=1e-8)
    assert len(psec.load_dataset(files["east"], trajectories=2).returns) == 2


def test_an_experiment_reads_it_where_its_module_is_imported(finished, files):
    library = psec.SkillLibrary.open(finished / "seed_0" / "library")
    assert library.get("north").provenance["dataset"] == str(files["north"])
