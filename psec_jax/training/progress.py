"""A progress bar with the rate, the time left and the loss."""

from contextlib import AbstractContextManager
from types import TracebackType


class Progress(AbstractContextManager):
    """Counts updates from ``start`` to ``steps`` on the terminal; silent unless ``shown``."""

    def __init__(self, label: str, steps: int, start: int = 0, shown: bool = True):
        self._bar = None
        if not shown:
            return
        from rich import progress

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=10),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]:.0f}/s"),
            progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            progress.TextColumn("loss {task.fields[loss]:.4f}"),
        )
        self._task = self._bar.add_task(
            label, total=steps, completed=start, loss=float("nan"), rate=0.0
        )
        self._start = start

    def advance(self, step: int, loss: float) -> None:
        if self._bar is None:
            return
        elapsed = self._bar.tasks[self._task].elapsed or 0.0
        rate = (step - self._start) / elapsed if elapsed else 0.0
        self._bar.update(self._task, completed=step, loss=loss, rate=rate)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
