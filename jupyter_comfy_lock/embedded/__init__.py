"""A small ComfyUI-compatible server that really runs image nodes on the CPU.

    async with EmbeddedComfy("gpu-1") as comfy:
        ...  # any ComfyUI client can talk to comfy.url

It follows ComfyUI 0.33.0 as its recorded traffic shows it, faults that clients must cope with
included: one socket that does not read holds up all others, and closing an old socket makes a
newer one of the same client id deaf. Where it is not like ComfyUI:

- It has a few image nodes and no models, assets, custom nodes, logs or user accounts.
- Two prompts of equal number and id do not end its worker.
- Outputs run in the order of the prompt; ComfyUI's order changes from start to start.
- An interrupt that comes while a prompt is being taken from the queue is not lost.
- Results are kept up to 256 MB; ComfyUI keeps them until memory gets short.

What else can go wrong with a ComfyUI can be switched on while it runs: see `Faults`.
"""

from jupyter_comfy_lock.embedded.faults import Faults
from jupyter_comfy_lock.embedded.server import EmbeddedComfy, load_nodes, serve

__all__ = ["EmbeddedComfy", "Faults", "load_nodes", "serve"]
