"""Runs the tiny graph with comfy-script, on a ComfyUI server directly. See `peers`."""

import json
import sys
import time

from comfy_script.runtime import Workflow, load

# Its thread prints what it hears, also in the middle of a line of ours.
answers, sys.stdout = sys.stdout, sys.stderr
load(sys.argv[1])

from comfy_script.runtime.nodes import EmptyImage, ImageInvert, SaveImage  # noqa: E402


def run(graph):
    image, save = graph["1"]["inputs"], graph["3"]["inputs"]
    with Workflow() as workflow:
        saved = SaveImage(ImageInvert(EmptyImage(**image)), save["filename_prefix"])
    return len(workflow.task.wait_result(saved).wait()[0].tobytes())


print("ready", file=answers, flush=True)
for line in sys.stdin:
    start_s = time.perf_counter()
    size = run(json.loads(line))
    print(f"took {time.perf_counter() - start_s} {size}", file=answers, flush=True)
