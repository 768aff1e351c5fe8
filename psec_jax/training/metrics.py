"""Where metrics go: a JSON-lines file, Weights & Biases, or both."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
        storage.repair_lines(self.path)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, label: str, step: int, metrics: Mapping[str, Any]) -> None:
        with storage.saving(self.path):
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
        with storage.saving(self.path):
            self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Wandb:
    """A Weights & Biases run: ``online``, ``offline`` (files only), or ``disabled``.

    A context manager: leaving it ends the run, as failed where an exception leaves it. The run's
    id follows from the folder's path and ``identity``, so that one that goes on is the same. It is
    called as ``folder`` is, unless ``name`` says otherwise, and W&B's own files lie there, unless
    ``files`` names another folder. Where ``online`` cannot be had, for want of an API key or of
    the network, a line says so and the run is ``offline``. Names of metrics become what W&B can
    sort by: letters, digits, underscores.

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
        *,
        entity: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        files: Path | None = None,
    ):
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                f"logger=wandb needs the extra: pip install 'psec-jax[wandb]' ({error})"
            ) from error
        self._wandb = wandb
        self._labels: set[str] = set()
        self._run = _begin(
            wandb,
            mode,
            project=project,
            entity=entity,
            group=group,
            dir=str(files or folder),
            name=name or folder.name,
            tags=tags and list(tags),
            id=hashlib.sha256(f"{folder.absolute()} {identity}".encode()).hexdigest()[:16],
            resume="allow",
            config=dict(config),
            # Without the second, a run whose network is gone at its end would wait for it forever.
            settings=wandb.Settings(init_timeout=30, finish_timeout=600),
        )

    def write(self, label: str, step: int, metrics: Mapping[str, float]) -> None:
        label = _plain(label)
        if label not in self._labels:
            self._run.define_metric(f"{label}/*", step_metric=f"{label}/step")
            self._labels.add(label)
        values = {f"{label}/{_plain(name, keep='/')}": value for name, value in metrics.items()}
        self._run.log({f"{label}/step": step, **values})

    def rewind(self, label: str, step: int) -> None:
        """Nothing: what was logged stays, and comes again with the same steps."""

    def summary(self, name: str, value: float | str) -> None:
        """What the whole run came to: a final mean, a text."""
        self._run.summary[_plain(name, keep="/")] = value

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        table = self._wandb.Table(columns=list(columns), data=[list(row) for row in rows])
        with self._reaching(name):
            self._run.log({name: table})

    def image(self, name: str, path: Path) -> None:
        self._run.log({f"figures/{_plain(name)}": self._wandb.Image(str(path))})

    def video(self, name: str, path: Path) -> None:
        self._run.log({f"videos/{_plain(name)}": self._wandb.Video(str(path))})

    def folder(self, name: str, kind: str, path: Path, metadata: Mapping[str, Any]) -> None:
        """A folder as an artifact of the run, with what it holds as its metadata."""
        allowed = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)
        artifact = self._wandb.Artifact(allowed, type=kind, metadata=dict(metadata))
        # Not copied into the user's home, where offline runs would leave their copies.
        artifact.add_dir(str(path), policy="immutable")
        with self._reaching(allowed):
            self._run.log_artifact(artifact)

    @contextmanager
    def _reaching(self, name: str) -> Iterator[None]:
        """Artifacts, and tables among them, ask the network first: if it is gone by now, the run
        lacks them there and goes on."""
        try:
            yield
        # pyright does not see that wandb imports it.
        except self._wandb.errors.Error as error:  # pyright: ignore[reportAttributeAccessIssue]
            print(f"W&B: without {name}: {_line(error)}", flush=True)

    def __enter__(self) -> "Wandb":
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


def _begin(wandb: Any, mode: str, **options: Any) -> Any:
    """A run of ``mode``, or an offline one where W&B cannot be reached."""
    try:
        # Asked for a key, a run that nobody watches would wait.
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("not logged in (wandb login, or WANDB_API_KEY)")
        return wandb.init(mode=mode, **options)
    except wandb.errors.Error as error:
        if mode != "online":
            raise
        files = f"{options['dir']}/wandb/offline-run-*"
        print(
            f"W&B cannot be reached, so the run is kept in files only: {_line(error)}. Upload "
            f"them by wandb sync {files}, or ask for files alone by logger.mode=offline",
            flush=True,
        )
        # Its background process would refuse the same id once more.
        wandb.teardown()
        return wandb.init(mode="offline", **options)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _plain(name: str, keep: str = "") -> str:
    return re.sub(f"[^A-Za-z0-9_{keep}]+", "_", name).strip("_")


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
