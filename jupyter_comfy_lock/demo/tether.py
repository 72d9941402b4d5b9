"""Run a module that stops when the demo is gone, however the demo ended.

`python -m jupyter_comfy_lock.demo.tether FD MODULE ARGUMENT…`: FD is the reading end of a pipe
whose other end only the demo has. The system closes that end even if the demo was killed.
"""

import os
import runpy
import signal
import sys
import threading
import time

#: Seconds that the module may take to stop in an orderly way.
_STOP_S = 8.0


def tethered(fd: int, module: str, arguments: list[str]) -> None:
    """Run `module` in this process, as `python -m` would, until it or the demo ends."""
    threading.Thread(target=_follow, args=(fd,), name="tether", daemon=True).start()
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        # Jupyter knows only SIGTERM. A handler, unlike "ignore", is not passed on to kernels.
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _follow(fd: int) -> None:
    """Wait for the end of the demo, and end this process."""
    while os.read(fd, 1):
        pass
    # To the main thread: one that waits for events would not notice a signal to another.
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
    time.sleep(_STOP_S)
    os._exit(1)


if __name__ == "__main__":
    tethered(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
