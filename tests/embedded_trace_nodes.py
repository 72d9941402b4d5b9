"""Nodes for tests: steps, errors, sleeps, text, blocking and expansion.

The same classes, inputs and behaviour as the custom nodes that the recorded traces used, so
one test runs on a real ComfyUI and on the embedded server.
"""

from __future__ import annotations

import time

import numpy as np
from PIL import Image

from jupyter_comfy_lock.embedded.nodes.spec import (
    MAX_SEED,
    Blocked,
    Input,
    Link,
    NodeContext,
    NodeResult,
    NodeSpec,
)

_SEED = Input("seed", "INT", {"default": 0, "min": 0, "max": MAX_SEED})
_IMAGE = Input("image", "IMAGE", required=False)


def _or_grey(image, seed):
    if image is not None:
        return image
    return np.full((1, 64, 64, 3), seed % 255 / 255, np.float32)


def steps(context: NodeContext, steps, delay, preview, seed, image=None) -> NodeResult:
    for i in range(steps):
        if delay:
            time.sleep(delay)
        frame = Image.new("RGB", (64, 64), (i * 40 % 256, 80, 160)) if preview else None
        context.progress(i + 1, steps, frame)
    return NodeResult((_or_grey(image, seed),))


def raise_error(context: NodeContext, message, seed, image=None) -> NodeResult:
    raise ValueError(message)


def block_sleep(context: NodeContext, seconds, seed, image=None) -> NodeResult:
    time.sleep(seconds)
    return NodeResult((_or_grey(image, seed),))


def text_out(context: NodeContext, text, image=None) -> NodeResult:
    context.say(f"progress text: {text}")
    return NodeResult(ui={"text": [text]})


def block(context: NodeContext, message, seed) -> NodeResult:
    return NodeResult((Blocked(message),))


def slow_out(context: NodeContext, seconds, seed) -> NodeResult:
    time.sleep(seconds)
    return NodeResult(ui={"text": ["slept"]})


def expand(context: NodeContext, n, seed) -> NodeResult:
    graph = context.subgraph()
    last: Link | None = None
    for i in range(n):
        more = {} if last is None else {"image": last}
        last = graph.add("TrSteps", steps=2, delay=0.05, preview=False, seed=seed + i, **more)
    return NodeResult((last,), expand=graph.nodes)


def _seconds(default: float) -> Input:
    return Input("seconds", "FLOAT", {"default": default, "min": 0.0, "max": 600.0})


def _message(default: str) -> Input:
    return Input("message", "STRING", {"default": default})


def _node(class_type, run, inputs, *, output=False, needs_id=False) -> NodeSpec:
    return NodeSpec(
        class_type,
        run,
        inputs=inputs,
        outputs=() if output else ("IMAGE",),
        output_node=output,
        category="trace",
        python_module="custom_nodes.trace_nodes",
        hidden={"unique_id": "UNIQUE_ID"} if needs_id else {},
    )


NODES = (
    _node("TrBlocker", block, (_message("blocked"), _SEED)),
    _node("TrSlowOut", slow_out, (_seconds(1.0), _SEED), output=True),
    _node("TrExpand", expand, (Input("n", "INT", {"default": 2, "min": 1, "max": 50}), _SEED)),
    _node(
        "TrSteps",
        steps,
        (
            Input("steps", "INT", {"default": 5, "min": 1, "max": 100000}),
            Input("delay", "FLOAT", {"default": 0.2, "min": 0.0, "max": 60.0, "step": 0.001}),
            Input("preview", "BOOLEAN", {"default": False}),
            _SEED,
            _IMAGE,
        ),
        needs_id=True,
    ),
    _node("TrRaise", raise_error, (_message("boom"), _SEED, _IMAGE)),
    _node("TrBlockSleep", block_sleep, (_seconds(2.0), _SEED, _IMAGE)),
    _node(
        "TrTextOut",
        text_out,
        (Input("text", "STRING", {"default": "hi"}), _IMAGE),
        output=True,
        needs_id=True,
    ),
)
