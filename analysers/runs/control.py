"""Pause, go on, stop: from another thread, or by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Control:
    """A run's brake. The run asks `stopped` before it begins anything new."""

    def __init__(self) -> None:
        self._going = threading.Event()
        self._going.set()
        self._stop = False
        self.interrupted = False

    def pause(self) -> None:
        """Begin nothing new; what is in flight is finished."""
        self._going.clear()

    def resume(self) -> None:
        """Go on after a pause."""
        self._going.set()

    def stop(self) -> None:
        """End the run when what is in flight is finished."""
        self._stop = True
        self._going.set()

    @property
    def paused(self) -> bool:
        return not self._going.is_set()

    @property
    def stopping(self) -> bool:
        return self._stop

    def stopped(self) -> bool:
        """Whether to end; waits while paused."""
        self._going.wait()
        return self._stop


class CtrlC:
    """Holds back the first Ctrl-C while `flying`, until what is in flight has landed."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self.flying = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """In the main thread only; elsewhere Ctrl-C is somebody else's."""
        usual = signal.getsignal(signal.SIGINT)
        here = threading.current_thread() is threading.main_thread()
        if not here or usual is None or usual is signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self.flying or self._control.interrupted:
            raise KeyboardInterrupt
        self._control.interrupted = True
        self._control.stop()
        print("\nFinishing the pictures in flight; Ctrl-C again stops at once.", file=sys.stderr)
