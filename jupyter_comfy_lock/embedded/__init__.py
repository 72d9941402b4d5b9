"""A small ComfyUI-compatible server that really runs image nodes on the CPU."""

from jupyter_comfy_lock.embedded.server import EmbeddedComfy, load_nodes, serve

__all__ = ["EmbeddedComfy", "load_nodes", "serve"]
