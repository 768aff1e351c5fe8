"""Play a saved agent: ``python -m psec_jax.evaluate AGENT ENVIRONMENT --episodes 50``."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from psec_jax import agents
from psec_jax.acting import Actor, ComposedActor
from psec_jax.command_line import import_modules, printing
from psec_jax.data.checks import check_seed
from psec_jax.envs import make
from psec_jax.evaluation.evaluate import Evaluation, evaluate
from psec_jax.evaluation.tracing import film, picture_interval, trace_weights
from psec_jax.training.seeds import named_key

_PICTURES_PER_SECOND = 10.0


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    try:
        with printing():
            _run(chosen)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m psec_jax.evaluate",
        description="Play a saved agent and print its returns, and costs where there are any. "
        "The numbers are those of psec.evaluate with key=jax.random.key(SEED).",
    )
    parser.add_argument("agent", type=Path, help="a folder that agent.save wrote")
    parser.add_argument("environment", help="an id, such as dm_control/walker-walk-v0")
    parser.add_argument("--episodes", type=int, default=50, help="how many (default 50)")
    parser.add_argument("--seed", type=int, default=0, help="of policy and episodes (default 0)")
    parser.add_argument(
        "--video",
        type=Path,
        metavar="FILE.gif",
        help="also film one more episode, of a composed policy above its weights and rewards",
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with each episode's numbers"
    )
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module first: one that defines the agent's classes, or registers the "
        "environment; may be given several times",
    )
    return parser


def _run(chosen: argparse.Namespace) -> None:
    if chosen.video is not None:
        if chosen.video.suffix.lower() != ".gif":
            raise ValueError(f"{chosen.video} is no file that --video writes; expected FILE.gif")
        if not os.environ.get("DISPLAY"):
            # Read when a simulator is imported.
            os.environ.setdefault("MUJOCO_GL", "egl")
    import_modules(chosen.modules)
    agent = agents.load(chosen.agent)
    if not hasattr(agent, "sample"):
        raise ValueError(f"{chosen.agent} holds {type(agent).__name__}, which do not act")
    key, began = jax.random.key(check_seed(chosen.seed)), time.monotonic()
    with _clock(f"{chosen.episodes} episodes of {chosen.environment}"):
        evaluation = evaluate(agent, chosen.environment, episodes=chosen.episodes, key=key)
    seconds = time.monotonic() - began
    if chosen.json:
        print(json.dumps(_summary(chosen, evaluation, seconds), indent=2))
    else:
        print(f"{chosen.environment}: {evaluation} ({seconds:.0f} s)")
    if chosen.video is not None:
        _film(agent, chosen, named_key(key, "film"))


def _film(agent: Actor, chosen: argparse.Namespace, key: jax.Array) -> None:
    from psec_jax.report import videos

    rate = _PICTURES_PER_SECOND
    with _clock(f"filming {chosen.environment}"), closing(make(chosen.environment, 1)) as vector:
        mixture = _with_weights_of_the_state(agent)
        if mixture is None:
            pictures = film(agent, vector, key=key, pictures_per_second=rate)
        else:
            every = picture_interval(vector, rate)
            trace = trace_weights(mixture, vector, key=key, picture_every=every)
            pictures = videos.with_weights(trace, mixture.names)
        videos.animation(chosen.video, pictures, rate)
    print(f"{chosen.video}: {len(pictures)} pictures of one episode", file=sys.stderr)


def _with_weights_of_the_state(agent: Actor) -> ComposedActor | None:
    """``agent``, unless it is a policy, or each layer's input decides on its weights."""
    if not hasattr(agent, "names"):
        return None
    mixture = cast(ComposedActor, agent)
    weights = mixture.weights(jnp.zeros((1, agent.observation_size)))
    return None if callable(weights) else mixture


def _summary(chosen: argparse.Namespace, evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "agent": str(chosen.agent),
        "environment": chosen.environment,
        "episodes": chosen.episodes,
        "seed": chosen.seed,
        "seconds": round(seconds, 1),
        "mean_return": evaluation.mean,
        "std_return": evaluation.std,
        "returns": evaluation.returns.tolist(),
        "lengths": evaluation.lengths.tolist(),
    }
    costs = evaluation.costs
    if costs is not None and costs.any():
        summary |= {"mean_cost": float(np.mean(costs)), "costs": costs.tolist()}
    return summary


@contextmanager
def _clock(what: str) -> Iterator[None]:
    """The time that ``what`` has taken so far, on a terminal."""
    from rich import console, progress

    columns = (progress.SpinnerColumn(), "{task.description}", progress.TimeElapsedColumn())
    screen = console.Console(stderr=True)
    with progress.Progress(
        *columns, console=screen, transient=True, disable=not screen.is_terminal
    ) as bar:
        bar.add_task(what, total=None)
        yield


if __name__ == "__main__":
    main()
