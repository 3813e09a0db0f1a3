"""The signals that ask a run to leave, heard from the first moment on: it takes seconds until a run can heed them."""

import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
received: list[int] = []


def record_signals() -> None:
    """Remember these signals from now on; a run that begins later leaves by them."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
