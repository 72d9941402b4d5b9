"""`%comfy` and `%%comfy`: each command is one call of the Python API.

`commands` declares those of a line and `cell` those of a whole cell; `words` reads what follows
them, `axes` what a sweep goes through, `completion` offers what may follow, and `shell` gives all
of it to IPython.
"""

from jupyter_comfy_lock.kernel.magics.shell import load as load
