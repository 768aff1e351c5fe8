"""One program in several processes, on one host or many: what they say to each other."""

import os
import sys
import threading
from typing import Any

import jax
import numpy as np

from psec_jax.errors import NotJoined


def join_processes(timeout: int = 300) -> None:
    """Make one set of the devices of all processes of this program, where the environment says
    that it has several; nothing otherwise, nor a second time.

    To be called before JAX touches a device. Several are said by ``JAX_NUM_PROCESSES`` with
    ``JAX_COORDINATOR_ADDRESS`` (a host:port of the first one) and ``JAX_PROCESS_ID``, by mpirun,
    by srun for the tasks of one step, and by a TPU slice. A variable that only says how large an
    allocation is, such as ``SLURM_NTASKS``, says nothing of this process and is not heard.

    Raises ``NotJoined`` where the environment contradicts itself; where the others do not come in
    ``timeout`` seconds, the program ends with a line that says so.
    """
    if jax.distributed.is_initialized():
        return
    said = _said()
    if said is None:
        return
    by, options = said
    # Its handler would take SIGTERM away from the program.
    jax.config.update("jax_enable_preemption_service", False)
    # Left to itself JAX aborts, with a trace of its own.
    watch = threading.Timer(timeout, _give_up, [by, timeout])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(**options, initialization_timeout=timeout + 60)
    except (KeyError, RuntimeError, ValueError) as error:
        raise NotJoined(
            f"by {by} this is one of several processes, but JAX cannot join them ({error}); set "
            f"{', '.join(_EXPLICIT)}, or start it as one process without {by}"
        ) from error
    finally:
        watch.cancel()


def leads() -> bool:
    """Whether this process is the first of its program, the one that writes."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process; all of them must ask."""
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def meet() -> None:
    """Wait until all processes are here."""
    any_process(False)


def of_the_first(value: Any) -> np.ndarray:
    """The first process' ``value``, an array of the same shape in all; all of them must ask."""
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(np.asarray(value))


def text_of_the_first(text: str) -> str:
    """The first process' ``text``; all of them must ask."""
    content = np.frombuffer(text.encode(), np.uint8)
    size = int(of_the_first(len(content)))
    return of_the_first(np.resize(content, size)).astype(np.uint8).tobytes().decode()


_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def _said() -> tuple[str, dict[str, Any]] | None:
    """What says that there are several processes, and what JAX must be told beside what it finds
    out; None where there is but one."""
    if _count("JAX_NUM_PROCESSES") > 1:
        if missing := [name for name in _EXPLICIT if not os.environ.get(name)]:
            raise NotJoined(f"JAX_NUM_PROCESSES needs {' and '.join(missing)} beside it")
        return "JAX_NUM_PROCESSES", {
            "num_processes": _count("JAX_NUM_PROCESSES"),
            "process_id": _count("JAX_PROCESS_ID"),
            "cluster_detection_method": "deactivate",
        }
    # Before SLURM, in a step of which mpirun's daemons may run.
    if _count("OMPI_COMM_WORLD_SIZE") > 1:
        return "OMPI_COMM_WORLD_SIZE", {"cluster_detection_method": "ompi"}
    if _count("SLURM_STEP_NUM_TASKS") > 1:
        # Left to itself JAX gives each task the one GPU with its number on the node, also where
        # it has the node alone or sees but its own.
        alone = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0] == "1"
        own = "," not in os.environ.get("CUDA_VISIBLE_DEVICES", ",")
        return "SLURM_STEP_NUM_TASKS", {
            "num_processes": _count("SLURM_STEP_NUM_TASKS"),
            "cluster_detection_method": "slurm",
            "local_device_ids": [] if alone or own else None,
        }
    if _hosts_of_slice() > 1:
        return "the TPU slice", {}
    return None


def _count(name: str) -> int:
    value = os.environ.get(name) or "1"
    if not value.isdigit():
        raise NotJoined(f"{name} must be a number, not {value!r}")
    return int(value)


def _hosts_of_slice() -> int:
    # JAX does not offer in public what it knows of them.
    from jax._src.clusters import GceTpuCluster, GkeTpuCluster

    for cluster in (GkeTpuCluster, GceTpuCluster):
        if cluster.is_env_present():
            return cluster.get_process_count()
    return 1


def _give_up(by: str, timeout: int) -> None:
    print(
        f"error: by {by} this is one of several processes, but they did not all come together in "
        f"{timeout} seconds; start all of them, where they reach the first one's host, or this "
        f"one without {by}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
