"""Errors that callers may want to tell apart. Each message says what, expected what, and the
mend."""


class BaseMismatch(ValueError):
    """A skill met a base policy that it was not learned on."""

    def __init__(self, what: str, fingerprint: str, other: str, other_fingerprint: str):
        self._arguments = what, fingerprint, other, other_fingerprint
        super().__init__(
            f"{what} belongs to the base policy {fingerprint}, but {other} is "
            f"{other_fingerprint}; use the base it was learned on, or learn the skill again"
        )

    def __reduce__(self):
        return type(self), self._arguments


class OtherTraining(ValueError):
    """Saved states belong to another training than the one that would resume from them."""


class BrokenFile(ValueError):
    """A file is not what its name says: truncated, garbage, or of another layout."""


class NotImported(ValueError):
    """A file names a class or function that this process has not imported, or may not use."""


class NotSaved(OSError):
    """Something could not be saved, as on a full disk; what was saved before is whole."""


class Diverged(FloatingPointError):
    """A loss stopped being finite."""


class NotJoined(ConnectionError):
    """The processes of one program cannot be put together."""
