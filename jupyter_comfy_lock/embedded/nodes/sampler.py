"""A stand-in for a diffusion sampler: no model, but noise that turns into a picture."""

from __future__ import annotations

import time

import numpy as np

from jupyter_comfy_lock.embedded.nodes.resize import to_picture
from jupyter_comfy_lock.embedded.nodes.scene import draw_scene
from jupyter_comfy_lock.embedded.nodes.spec import (
    MAX_SEED,
    Input,
    NodeContext,
    NodeResult,
    NodeSpec,
)


def demo_sampler(
    context: NodeContext,
    seed: int,
    steps: int,
    width: int,
    height: int,
    prompt: str,
    delay: float = 0.05,
) -> NodeResult:
    """Draw the scene of `prompt` and `seed`, uncovered from noise in `steps` visible steps.

    Each step takes at least `delay` seconds.
    """
    scene = draw_scene(width, height, prompt, seed)
    noise = np.random.default_rng(seed).normal(0.5, 0.35, scene.shape).astype(np.float32)
    image = noise
    for step in range(1, steps + 1):
        if delay:
            time.sleep(delay)
        # A half cosine: most of the noise goes in the middle, as with a real sampler.
        kept = 0.5 + 0.5 * np.cos(np.pi * step / steps)
        image = np.clip(scene * (1 - kept) + noise * kept, 0, 1).astype(np.float32)
        context.progress(step, steps, to_picture(image))
    return NodeResult((image[None],))


NODES = (
    NodeSpec(
        "DemoSampler",
        demo_sampler,
        inputs=(
            Input("seed", "INT", {"default": 0, "min": 0, "max": MAX_SEED}),
            Input("steps", "INT", {"default": 20, "min": 1, "max": 10000}),
            Input("width", "INT", {"default": 512, "min": 16, "max": 4096, "step": 8}),
            Input("height", "INT", {"default": 512, "min": 16, "max": 4096, "step": 8}),
            Input("prompt", "STRING", {"default": "a lake in the mountains", "multiline": True}),
            Input(
                "delay",
                "FLOAT",
                {
                    "default": 0.05,
                    "min": 0.0,
                    "max": 60.0,
                    "step": 0.001,
                    "tooltip": "Seconds that each step takes at least.",
                },
                required=False,
            ),
        ),
        outputs=("IMAGE",),
        display_name="Demo Sampler (no model)",
        description=(
            "Draws a procedural landscape and uncovers it from noise step by step. "
            "It uses no model and exists only here, not in ComfyUI."
        ),
        category="demo",
        python_module="jupyter_comfy_lock.embedded.nodes.sampler",
    ),
)
