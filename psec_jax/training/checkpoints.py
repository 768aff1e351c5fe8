"""Where ``fit`` keeps the state of learning, so that nothing but the last updates can be lost."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from psec_jax import storage
from psec_jax.errors import BrokenFile, NotSaved, OtherTraining
from psec_jax.training.origin import Origin, continues, differences_of
from psec_jax.training.processes import any_process, leads, of_the_first, text_of_the_first

_ORIGINS = "origins"


class Interrupted(SystemExit):
    """Ends the program after a state was saved, with an exit code that says: start me again."""

    # EX_TEMPFAIL of sysexits.h.
    CODE = 75

    def __init__(self, code: int = CODE):
        super().__init__(code)


class Checkpoints:
    """The last ``keep`` states of each fit, and the best of those that were given a score, in
    ``<folder>/<label>/<step>``, by Orbax.

    A state is saved after every ``every`` updates, at a chunk's end, and after the last: a fit
    whose last state is there returns it at once. With each lies what made it, and a fit of another
    learner, data, key or batch size is refused (``OtherTraining``). States are written beside the
    training, and one that was not written to its end is never read. Whoever sets ``stopping``
    makes the fit under way save at the next chunk's end and raise ``Interrupted``; ``fitting``
    says whether there is one. Several processes save together, in a folder that all of them see,
    and stop together where one of them is told to.
    """

    def __init__(self, folder: str | Path, every: int = 5000, keep: int = 2):
        for name, value in {"every": every, "keep": keep}.items():
            if value < 1:
                raise ValueError(f"checkpoint.{name} must be at least 1, not {value!r}")
        self.folder, self.every, self.keep = storage.expanded(folder), every, keep
        self.stopping = False
        self.fitting = False

    @contextmanager
    def of(self, label: str, like: Any) -> Iterator["CheckpointSession"]:
        """The states of the fit called ``label``, which are trees such as ``like``: those of other
        shapes are another fit's. Leaving waits until they are written."""
        import orbax.checkpoint as ocp

        folder = self.folder.absolute() / _folder_name(label, like)
        policies = ocp.checkpoint_managers.preservation_policy
        best = policies.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(self.keep), best]
            ),
            best_fn=_score,
        )
        with _explained(folder):
            handler = ocp.StandardCheckpointHandler()
            manager = ocp.CheckpointManager(folder, options=options, item_handlers=handler)
        self.fitting = True
        try:
            yield CheckpointSession(self, manager, folder)
            with _explained(folder):
                manager.wait_until_finished()
            self.fitting = False
            if any_process(self.stopping):
                raise Interrupted
        finally:
            self.fitting = False
            manager.close()

    def clear(self) -> None:
        """Remove all states, when what they led to is kept elsewhere."""
        if leads():
            shutil.rmtree(self.folder, ignore_errors=True)


class CheckpointSession:
    """The states of one fit."""

    def __init__(self, checkpoints: Checkpoints, manager: Any, folder: Path):
        self._checkpoints, self._manager, self.folder = checkpoints, manager, folder
        self._saved = 0
        self._origins: Sequence[Origin] = ()

    def latest(
        self, like: Any, labels: Sequence[str], origins: Sequence[Origin]
    ) -> tuple[int, Any] | None:
        """The last step and its state; None where nothing was saved.

        ``origins`` are what makes the states of the fits of these ``labels``. Raises
        ``OtherTraining`` where others made those that lie there, and ``BrokenFile`` where they
        cannot be read.
        """
        self._origins = origins
        # Another host may not yet see what this one does.
        step = int(of_the_first(self._manager.latest_step() or 0))
        if step == 0:
            return None
        self._saved = step
        there = self._origins_at(step)
        different = differences_of(labels, origins, there)
        if not any_process(bool(different)):
            return step, self._read(step, like)
        if jax.process_count() == 1:
            state = self._read(step, like)
            if continues(origins, there, step, state):
                self._origins = there
                return step, state
        different = different or ["what another process of this program was given"]
        raise OtherTraining(
            f"{self.folder} holds states of another training under the label "
            f"{' + '.join(labels)!r}; use another label or another folder, or remove that folder "
            "to train anew. What differs:\n" + "\n".join(f"  {line}" for line in different)
        )

    def best(self, like: Any) -> tuple[int, Any] | None:
        """The step of greatest score and its state; None where no state was given a score."""
        with _explained(self.folder):
            self._manager.wait_until_finished()
        scores = {0: -inf}
        for step in self._manager.all_steps():
            metrics = self._manager.metrics(step)
            if metrics is not None and _score(metrics) > -inf:
                scores[step] = _score(metrics)
        best = int(of_the_first(max(scores, key=lambda step: (scores[step], step))))
        return None if best == 0 else (best, self._read(best, like))

    def _read(self, step: int, like: Any) -> Any:
        import orbax.checkpoint as ocp

        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": like})
        with self._reading(step):
            return self._manager.restore(step, args=ocp.args.StandardRestore(shapes))["state"]

    def _origins_at(self, step: int) -> list[Origin]:
        """What made the states of ``step``: written with them, in one folder."""
        text = ""
        if leads():
            with self._reading(step):
                text = (self._manager.metadata(step).custom_metadata or {}).get(_ORIGINS, "")
        text = text_of_the_first(text)
        if not text:
            raise OtherTraining(
                f"{self.folder} does not say what made its states, as those of an earlier "
                "version of psec-jax do not; use another label or another folder, or remove that "
                "folder to train anew"
            )
        return json.loads(text)

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        try:
            yield
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise BrokenFile(
                f"{self.folder} cannot be read at step {step}; remove that step to go on from "
                f"the one before, or the folder to learn anew ({error})"
            ) from error

    def keep(
        self, step: int, state: Any, last: bool, after: Callable[[], tuple[int, float] | None]
    ) -> None:
        """Save where it is time to, ``after()`` what must not be lost has been done: it returns
        the last step that was given a score, and that. Raises ``Interrupted`` where the training
        shall stop."""
        import orbax.checkpoint as ocp

        stopping = any_process(self._checkpoints.stopping)
        every = self._checkpoints.every
        # The same steps whether interrupted or not.
        if last or stopping or step // every > self._saved // every:
            scored, score = after() or (None, -inf)
            known = scored == step and score == score
            metrics = {"score": float(of_the_first(score if known else -inf))}
            # The next chunk reuses the state's memory while this is still being written.
            copy = jax.tree.map(jnp.copy, state)
            with _explained(self.folder):
                saved = ocp.args.StandardSave({"state": copy})
                self._manager.save(
                    step,
                    args=saved,
                    metrics=metrics,
                    force=True,
                    custom_metadata={_ORIGINS: json.dumps(self._origins)},
                )
                self._saved = step
                if stopping:
                    self._manager.wait_until_finished()
        if stopping:
            raise Interrupted


def _score(metrics: Mapping[str, float]) -> float:
    return metrics["score"]


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise NotSaved(
            f"cannot save in {folder} ({error}); what was saved before is whole: make room and "
            "start again"
        ) from error


def _folder_name(label: str, like: Any) -> str:
    """Of letters that every file system takes, no longer than it takes (seeds side by side have a
    label each), and different for other labels and trees."""
    layout = jax.tree_util.tree_leaves_with_path(like)
    leaves = [f"{path} {leaf.dtype} {leaf.shape}" for path, leaf in layout]
    digest = hashlib.sha256(f"{label} {leaves}".encode()).hexdigest()[:6]
    readable = re.sub(r"[^A-Za-z0-9]+", "_", label)[:80].strip("_")
    return f"{readable}-{digest}"
