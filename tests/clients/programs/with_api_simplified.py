"""Does things with comfy-api-simplified."""

import base64
import json
import sys

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from comfy_api_simplified.exceptions import ComfyApiError

url, verb, *arguments = sys.argv[1:]
api = ComfyApiWrapper(url)
told = []


def picture(prompt):
    queue_prompt = api.queue_prompt

    def and_tell(*args):
        told.append(queue_prompt(*args))
        return told[-1]

    # It says no prompt's id to who waits for pictures.
    api.queue_prompt = and_tell
    (found,) = api.queue_and_wait_images(ComfyWorkflowWrapper(prompt), "Save").values()
    return {
        "prompt_id": told[0]["prompt_id"],
        "picture": base64.b64encode(found).decode(),
    }


def upload(path):
    return api.upload_image(path, subfolder="")["name"]


def interrupt():
    api.interrupt()


def queue():
    return [item[1] for items in api.get_queue().values() for item in items]


def place(prompt_id):
    return api.get_queue_size_before(prompt_id)


def file(image):
    try:
        found = api.get_image(image["filename"], image["subfolder"], image["type"])
    except ComfyApiError:
        return None
    return base64.b64encode(found).decode()


def system():
    try:
        return api.get_system_stats()["system"]["comfyui_version"]
    except (ComfyApiError, ValueError):
        return None


print(json.dumps(globals()[verb](*map(json.loads, arguments))))
