"""Runs the tiny graph with comfy-sdk, by way of comfy-api-proxy. See `peers`."""

import json
import sys
import time

from comfy_sdk import Comfy
from comfy_sdk.exceptions import ComfyError

#: COMFY_BASE_URL says where the proxy is.
client = Comfy()
how = sys.argv[1]


def run(graph):
    """Do as its README does, or follow the events, which tell of the end sooner."""
    workflow = client.workflows.from_json(graph)
    if how == "run":
        job = client.run(workflow)
    else:
        job = client.submit(workflow)
        for _ in job.events():
            pass
        job = job.result()
    return len(job.get_outputs("3")[0].to_bytes())


print("ready", flush=True)
for line in sys.stdin:
    start_s = time.perf_counter()
    try:
        size = run(json.loads(line))
    except ComfyError as error:
        print(f"failed {error!r}", flush=True)
    else:
        print(f"took {time.perf_counter() - start_s} {size}", flush=True)
