"""Nodes for tests that a real ComfyUI loads as custom nodes: slow, failing, blocking ones.

The embedded server has the same ones, so that a test's workflow runs on both.
"""

from __future__ import annotations

import time

import torch
from comfy.utils import ProgressBar
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from PIL import Image
from server import PromptServer

SEED = ("INT", {"default": 0, "min": 0, "max": 0xFFFF_FFFF_FFFF_FFFF})
#: Longest edge of a preview in pixels.
PREVIEW_SIZE = 512


def grey(seed: int) -> torch.Tensor:
    """A 64 by 64 picture whose shade follows from `seed`."""
    return torch.full((1, 64, 64, 3), (seed % 255) / 255)


class Node:
    CATEGORY = "trace"
    FUNCTION = "run"
    RETURN_TYPES: tuple[str, ...] = ("IMAGE",)


class TrSteps(Node):
    """Reports `steps` steps, `delay` seconds each; with a picture of each when `preview`."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "steps": ("INT", {"default": 5, "min": 1, "max": 100_000}),
                "delay": ("FLOAT", {"default": 0.2, "min": 0.0, "max": 60.0, "step": 0.001}),
                "preview": ("BOOLEAN", {"default": False}),
                "seed": SEED,
            },
            "optional": {"image": ("IMAGE",)},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, steps, delay, preview, seed, image=None, unique_id=None):
        progress = ProgressBar(steps, node_id=unique_id)
        for step in range(steps):
            if delay:
                time.sleep(delay)
            frame = None
            if preview:
                shade = (step * 40) % 256
                frame = ("JPEG", Image.new("RGB", (64, 64), (shade, 80, 160)), PREVIEW_SIZE)
            progress.update_absolute(step + 1, steps, frame)
        return (grey(seed) if image is None else image,)


class TrRaise(Node):
    """Raises ValueError(message)."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"message": ("STRING", {"default": "boom"}), "seed": SEED},
            "optional": {"image": ("IMAGE",)},
        }

    def run(self, message, seed, image=None):
        raise ValueError(message)


class TrBlockSleep(Node):
    """Sleeps at one go: an interrupt takes effect only afterwards."""

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 2.0, "min": 0.0, "max": 600.0}),
                "seed": SEED,
            },
            "optional": {"image": ("IMAGE",)},
        }

    def run(self, seconds, seed, image=None):
        time.sleep(seconds)
        return (grey(seed) if image is None else image,)


class TrTextOut(Node):
    """An output without files, and a line of progress text that ComfyUI tells everybody."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {"text": ("STRING", {"default": "hi"})},
            "optional": {"image": ("IMAGE",)},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(self, text, image=None, unique_id=None):
        PromptServer.instance.send_progress_text(f"progress text: {text}", unique_id)
        return {"ui": {"text": [text]}}


class TrBlocker(Node):
    """Blocks what comes after it."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"message": ("STRING", {"default": "blocked"}), "seed": SEED}}

    def run(self, message, seed):
        return (ExecutionBlocker(message),)


class TrSlowOut(Node):
    """An output that sleeps at one go, so that it cannot be interrupted."""

    RETURN_TYPES = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0}),
                "seed": SEED,
            }
        }

    def run(self, seconds, seed):
        time.sleep(seconds)
        return {"ui": {"text": ["slept"]}}


class TrExpand(Node):
    """Becomes a chain of `n` TrSteps while it runs."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"n": ("INT", {"default": 2, "min": 1, "max": 50}), "seed": SEED}}

    def run(self, n, seed):
        graph = GraphBuilder()
        image = {}
        for step in range(n):
            node = graph.node(
                "TrSteps", steps=2, delay=0.05, preview=False, seed=seed + step, **image
            )
            image = {"image": node.out(0)}
        return {"result": (image["image"],), "expand": graph.finalize()}


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (TrBlocker, TrBlockSleep, TrExpand, TrRaise, TrSlowOut, TrSteps, TrTextOut)
}
