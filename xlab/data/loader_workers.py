"""Keep the processes that load batches at work when a signal ends the run: what it stops at needs its batch."""

import os
import signal
import threading


def outlive_signals(worker: int) -> None:
    """Let a loader's worker pass over what is sent to a whole process group; the run itself ends its workers.

    Ctrl-C reaches every process of a terminal, and a scheduler's SIGTERM every process of a job. The run obeys behind
    its optimiser step, for which it may want another batch. A ``worker_init_fn``.

    Args:
        worker: its number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # as on macOS, where who sent a signal cannot be told
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_obey_the_run, daemon=True, name="signals").start()


def _obey_the_run() -> None:
    run = os.getppid()
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender in (run, os.getppid()):  # another parent: the run is gone
            os._exit(0)
