"""Does what ComfyUI's own example for its WebSocket does: urllib and websocket-client, no more."""

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid

import websocket


def call(path, body=None):
    request = urllib.request.Request(url + path, data=body)
    with urllib.request.urlopen(request) as answer:
        return answer.read()


def picture(prompt):
    client_id = str(uuid.uuid4())
    socket = websocket.WebSocket()
    socket.connect(f"{url.replace('http', 'ws', 1)}ws?clientId={client_id}")
    body = json.dumps({"prompt": prompt, "client_id": client_id}).encode()
    prompt_id = json.loads(call("prompt", body))["prompt_id"]
    seen = []
    while True:
        frame = socket.recv()
        if not isinstance(frame, str):
            continue
        message = json.loads(frame)
        seen.append(message)
        if message["type"] == "executing":
            data = message["data"]
            if data["node"] is None and data["prompt_id"] == prompt_id:
                break
    socket.close()
    history = json.loads(call(f"history/{prompt_id}"))[prompt_id]
    (image,) = history["outputs"]["3"]["images"]
    return {
        "prompt_id": prompt_id,
        "picture": base64.b64encode(file(image, raw=True)).decode(),
        "seen": seen,
    }


def interrupt():
    call("interrupt", b"")


def clear():
    call("queue", json.dumps({"clear": True}).encode())


def forget():
    call("history", json.dumps({"clear": True}).encode())


def queue():
    told = json.loads(call("queue"))
    return [item[1] for items in told.values() for item in items]


def file(image, raw=False):
    try:
        found = call("view?" + urllib.parse.urlencode(image))
    except urllib.error.HTTPError:
        return None
    return found if raw else base64.b64encode(found).decode()


url, verb, *arguments = sys.argv[1:]
print(json.dumps(globals()[verb](*map(json.loads, arguments))))
