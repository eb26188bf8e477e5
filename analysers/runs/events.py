"""What long work tells while it goes on."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where long work reports to; the command line shows a bar, a library user may do nothing."""

    def start(self, label: str, total: int) -> None: ...

    def advance(self, *, timed: bool = True) -> None:
        """One is done; `timed` says that it took as long as those still to come will."""

    def finish(self) -> None: ...


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, label: str, total: int) -> None:
        """Nothing to show."""

    def advance(self, *, timed: bool = True) -> None:
        """Nothing to show."""

    def finish(self) -> None:
        """Nothing to show."""
