"""A stand-in for a diffusion sampler: no model, but noise that turns into a picture."""

from __future__ import annotations

import time

import numpy as np

from jupyter_comfy_lock.embedded.nodes.resize import resize, to_picture
from jupyter_comfy_lock.embedded.nodes.scene import Picture, draw_scene
from jupyter_comfy_lock.embedded.nodes.spec import (
    MAX_SEED,
    Input,
    NodeContext,
    NodeResult,
    NodeSpec,
)

#: How blurred the picture is at first, and then less and less, in pixels.
_COARSENESS = (48, 16, 5)


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
    details = [_without_detail(scene, x) for x in _COARSENESS] + [scene]
    noise = np.random.default_rng(seed).normal(0, 0.3, scene.shape).astype(np.float32)
    noise += _without_detail(noise, 8) * 4  # blotches too, as in a real sampler's previews
    for step in range(1, steps + 1):
        if delay:
            time.sleep(delay)
        image = _seen_at(step / steps, details, noise)
        context.progress(step, steps, to_picture(image))
    return NodeResult((image[None],))


def _seen_at(share: float, details: list[Picture], noise: Picture) -> Picture:
    """Return the picture after that share of the steps; at 1.0 it is the last of `details`."""
    place = share * (len(details) - 1)
    sharper = min(int(place) + 1, len(details) - 1)
    blend = np.float32(place - (sharper - 1))
    picture = details[sharper - 1] * (1 - blend) + details[sharper] * blend
    # A half cosine: most of the noise goes in the middle of the run.
    kept = np.float32(0.5 + 0.5 * np.cos(np.pi * share))
    seen: Picture = np.clip(picture + noise * kept, 0, 1)
    return seen


def _without_detail(picture: Picture, factor: int) -> Picture:
    """Return the picture as it looks at `factor` times fewer pixels each way."""
    height, width = picture.shape[:2]
    small = resize(picture[None], max(1, width // factor), max(1, height // factor), "area")
    blurred: Picture = resize(small, width, height, "bilinear")[0]
    return blurred


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
