"""Does things with comfy-script: nodes as Python functions, one watching thread."""

import asyncio
import base64
import io
import json
import sys

from comfy_script import client
from comfy_script.runtime import Workflow, load, queue

url, verb, *arguments = sys.argv[1:]
progress = []


def picture(prompt):
    load(url)
    from comfy_script.runtime import nodes

    image, steps, save = (prompt[node]["inputs"] for node in "123")
    with Workflow() as workflow:
        made = nodes.EmptyImage(**image)
        made = nodes.TrSteps(**{**steps, "image": made})
        saved = nodes.SaveImage(made, save["filename_prefix"])
    workflow.task.add_progress_callback(lambda told: progress.append([told.value, told.max]))
    result = workflow.task.wait_result(saved)
    asyncio.run(until_nothing_is_left())
    file = io.BytesIO()
    result.wait()[0].save(file, "png")
    return {
        "prompt_id": workflow.task.prompt_id,
        "picture": base64.b64encode(file.getvalue()).decode(),
        "progress": progress,
    }


async def until_nothing_is_left():
    nothing_left = asyncio.Event()
    loop = asyncio.get_running_loop()
    queue.when_empty(lambda: loop.call_soon_threadsafe(nothing_left.set) and False)
    await asyncio.wait_for(nothing_left.wait(), 20)


def interrupt():
    client.client = client.Client(url)
    queue.cancel_current()


def clear():
    client.client = client.Client(url)
    queue.cancel_remaining()


def stop_all():
    client.client = client.Client(url)
    queue.cancel_all()


print(json.dumps(globals()[verb](*map(json.loads, arguments))))
