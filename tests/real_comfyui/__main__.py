"""Install the real ComfyUI now, so that tests need not wait for it."""

import time

from tests.real_comfyui.install import installed_comfyui

started = time.monotonic()
home = installed_comfyui()
print(f"ComfyUI is in {home.source} ({time.monotonic() - started:.0f} s)")
