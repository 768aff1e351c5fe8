import subprocess
import sys

OPTIONAL = ("hydra", "omegaconf", "wandb", "dm_control", "mujoco", "shimmy", "matplotlib")


def test_importing_the_package_imports_nothing_optional():
    code = f"import sys, psec_jax; print(sorted(set(sys.modules) & set({OPTIONAL})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.strip() == "[]"


def test_the_package_works_where_nothing_optional_can_be_imported():
    """Naming the extra to install is then all that an environment or a figure does."""
    code = f"""
import sys
for name in {OPTIONAL}:
    sys.modules[name] = None
import jax, psec_jax
from psec_jax.training.metrics import Wandb
def figures():
    import psec_jax.report.figures
def logger():
    Wandb(None, {{}}, "offline", "project")
def environment():
    psec_jax.envs.make("dm_control/walker-walk-v0", 1)
for use in (figures, logger, environment):
    try:
        use()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    for line, extra in zip(lines, ("experiments", "wandb", "dmcontrol"), strict=True):
        assert f"pip install 'psec-jax[{extra}]'" in line
