"""Where metrics go: a JSON-lines file, Weights & Biases, or both."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from psec_jax import storage


class Writer(Protocol):
    """Takes the metrics of one learner at one step."""

    def write(self, label: str, step: int, metrics: Mapping[str, float]) -> None: ...

    def rewind(self, label: str, step: int) -> None:
        """Forget what was written of ``label`` after ``step``, from where learning goes on."""


class JsonLines:
    """One JSON object a line, flushed at once: ``{"label": …, "step": …, "loss": …}``.

    Leaving its context, or ``close()``, closes the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        storage.mend_lines(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, label: str, step: int, metrics: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"label": label, "step": step, **metrics}) + "\n")
        self._file.flush()

    def rewind(self, label: str, step: int) -> None:
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            row = json.loads(line)
            if row["label"] != label or row["step"] <= step:
                kept.append(line)
        self._file.close()
        with storage.new_file(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wandb:
    """A Weights & Biases run: ``online``, ``offline`` (files only), or ``disabled``.

    A context manager: leaving it ends the run, as failed where an exception leaves it. The run's
    id follows from the folder's path and ``identity``, so that one that goes on is the same.

    Raises ``ImportError`` naming the extra where the package is missing.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        mode: str,
        project: str,
        group: str | None = None,
        identity: str = "",
    ):
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"logger=wandb needs the extra: pip install 'psec-jax[wandb]' ({error})"
            ) from error
        self._wandb = wandb
        self._labels: set[str] = set()
        self._run = wandb.init(
            project=project,
            group=group,
            dir=str(folder),
            name=folder.name,
            id=hashlib.sha256(f"{folder.absolute()} {identity}".encode()).hexdigest()[:16],
            resume="allow",
            config=dict(config),
            mode=mode,
        )

    def write(self, label: str, step: int, metrics: Mapping[str, float]) -> None:
        if label not in self._labels:
            self._run.define_metric(f"{label}/*", step_metric=f"{label}/step")
            self._labels.add(label)
        self._run.log({f"{label}/step": step, **{f"{label}/{k}": v for k, v in metrics.items()}})

    def rewind(self, label: str, step: int) -> None:
        """Nothing: what was logged stays, and comes again with the same steps."""

    def text(self, name: str, content: str) -> None:
        self._run.summary[name] = content

    def image(self, name: str, path: Path) -> None:
        self._run.log({name: self._wandb.Image(str(path))})

    def folder(self, name: str, kind: str, path: Path, facts: Mapping[str, Any]) -> None:
        """A folder as an artifact of the run, with what it holds as its metadata."""
        allowed = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
        artifact = self._wandb.Artifact(allowed, type=kind, metadata=dict(facts))
        artifact.add_dir(str(path))
        self._run.log_artifact(artifact)

    def __enter__(self) -> "Wandb":
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


class Writers:
    """Several writers as one."""

    def __init__(self, writers: tuple[Writer, ...]):
        self._writers = writers

    def write(self, label: str, step: int, metrics: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(label, step, metrics)

    def rewind(self, label: str, step: int) -> None:
        for writer in self._writers:
            writer.rewind(label, step)
