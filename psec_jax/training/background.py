"""What is done beside the training: a policy is evaluated while the next updates are computed."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any


class BackgroundWorker(AbstractContextManager):
    """``beside(call, *arguments)`` runs calls in one thread, in their order, one at a time.

    A call waits until the one before has returned. What a call raises is raised by the next one,
    by ``wait()``, or on leaving the context.
    """

    def __init__(self):
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future | None = None

    def __call__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.wait()
        self._last = self._thread.submit(call, *arguments)

    def wait(self) -> Any:
        """Until every call has returned: what the last one did, the first time; else None."""
        last, self._last = self._last, None
        return None if last is None else last.result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whatever happened, nothing goes on behind the caller's back.
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()
