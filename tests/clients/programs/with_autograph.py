"""Does things with comfyui-autograph. It can neither interrupt nor clear nor list anything."""

import base64
import json
import sys

from autograph import ApiFlow
from autograph.net import upload_file
from autograph.results import SubmissionResult

url, verb, *arguments = sys.argv[1:]


def picture(prompt):
    events = []
    result = ApiFlow(prompt).submit(
        url,
        wait=True,
        poll_interval=0.1,
        on_event=lambda event: events.append([event["type"], event.get("detected_by")]),
    )
    return {
        "prompt_id": result.prompt_id,
        "picture": fetched(result),
        "events": events,
    }


def upload(path):
    return upload_file(path, url, overwrite=True).name


def task(prompt_id):
    """What it can get of a prompt of which it knows the id alone."""
    try:
        return fetched(SubmissionResult.from_prompt_id(prompt_id, url))
    except (KeyError, ValueError, TimeoutError, IndexError):
        return None


def fetched(result):
    (image,) = result.fetch_images(include_bytes=True, wait_timeout=1)
    return base64.b64encode(image["bytes"]).decode()


print(json.dumps(globals()[verb](*map(json.loads, arguments))))
