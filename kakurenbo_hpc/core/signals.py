"""Early-stop signals, recorded from process start, seconds before a run can act on them."""

import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
received: list[int] = []


def record_signals() -> None:
    """Record these signals from now on, for the run that begins later."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
