"""Ctrl-C and SIGTERM ask a run to stop: it ends its step, saves, and says how to go on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIG_DFL, SIGINT, SIGTERM, Signals, getsignal
from signal import signal as set_handler
from types import FrameType

SIGNALS = (SIGINT, SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A run that stopped because it was asked to.

    Attributes:
        signal: SIGINT or SIGTERM.
        step: optimiser steps done.
        checkpoint: of exactly that step; None where the run keeps none.
    """

    def __init__(self, number: Signals, step: int, checkpoint: Path | None) -> None:
        super().__init__(f"stopped by {number.name} after step {step}")
        self.signal = number
        self.step = step
        self.checkpoint = checkpoint


@dataclass
class StopRequest:
    """Which signal has asked to stop, if any."""

    signal: Signals | None = None


@contextmanager
def stop_requests(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Within it the first SIGINT or SIGTERM is noted; a second one acts as it did before.

    Outside the main thread, where Python takes no signals, nothing is noted.

    Args:
        request: where it is noted; by default in a new one.
    """
    request = StopRequest() if request is None else request
    request.signal = None
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {each: getsignal(each) for each in SIGNALS}

    def restore() -> None:
        for each, handler in before.items():
            # None: a handler that was not set from Python, and that Python cannot set again.
            set_handler(each, SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = Signals(number)
        restore()

    for each in SIGNALS:
        set_handler(each, note)
    try:
        yield request
    finally:
        restore()
