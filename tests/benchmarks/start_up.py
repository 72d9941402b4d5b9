"""What the server extension costs each start of a Jupyter server, whether or not it is used.

    python -m tests.benchmarks.start_up [ROUNDS]

The processor time until the extension is linked, beyond what a Jupyter server has imported by
then, and of what it loads when it starts; in new processes, as many as asked for (10 if left out).
To see what takes long: `python -X importtime -c "import jupyter_comfy_lock.server.app"`.
"""

import json
import subprocess
import sys

from tests.benchmarks.figures import Report, Wanted, ms, percentile
from tests.comfy_servers import test_environment

#: Seconds of processor time.
_LIMIT_S = 0.02
_PROGRAM = """
import importlib, json, time
import jupyter_server.extension.application
from jupyter_server.serverapp import JUPYTER_SERVICE_HANDLERS
for service in JUPYTER_SERVICE_HANDLERS.values():
    for module in service or ():
        importlib.import_module(module)
def spent(*modules):
    before = time.process_time()
    for module in modules:
        importlib.import_module(module)
    return time.process_time() - before
import jupyter_comfy_lock
before = time.process_time()
jupyter_comfy_lock._jupyter_server_extension_points()
linked = time.process_time() - before
print(json.dumps([linked, spent("jupyter_comfy_lock.store.stores")]))
"""


def measure() -> tuple[float, float]:
    """The seconds until it is linked, and those of importing the store, in a new process."""
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=test_environment(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    linked, store = json.loads(said.splitlines()[-1])
    return linked, store


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    # The first one may compile.
    measure()
    linked, store = zip(*(measure() for _ in range(rounds)), strict=True)
    report = Report(f"{rounds} starts", ("CPU p50", "most", "ratio", "wanted"))
    wanted = Wanted(ratio=percentile(linked, 50) / _LIMIT_S, limit=1)
    name = f"until it is linked, beside {1000 * _LIMIT_S:g} ms"
    report.add(name, ms(linked, 50), ms(linked, 100), wanted=wanted)
    report.add("the store, in a thread, once it starts", ms(store, 50), ms(store, 100))
    report.show()


if __name__ == "__main__":
    main()
