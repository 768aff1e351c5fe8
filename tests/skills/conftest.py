"""Libraries to compare with, and the assertion that a refusal changes nothing."""

import pytest

from psec_jax import SkillLibrary


@pytest.fixture
def other_library(tmp_path, diffusion):
    """Another library of the same base."""
    return SkillLibrary.create(tmp_path / "other", diffusion)


@pytest.fixture
def unchanged(tmp_path, tree_of):
    """Asserts when the test ends that nothing under ``tmp_path`` differs from ``unchanged()``."""
    seen = []
    yield lambda: seen.append(tree_of(tmp_path))
    assert tree_of(tmp_path) == seen[-1]
