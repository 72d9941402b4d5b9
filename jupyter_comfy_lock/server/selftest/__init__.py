"""`comfy.selftest()`: the promises, tried on the running pool.

Runs in the Jupyter server, which makes holders for it and ends them: a kernel's credential makes
none (R10). These holders do all else as kernels do, by HTTP, with credentials of their own.
"""

from jupyter_comfy_lock.server.selftest.run import SelfTests as SelfTests
