"""Does things with comfy-cli, each with a command of its own."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

url, verb, *arguments = sys.argv[1:]
place = urlsplit(url)
there = ["--host", place.hostname, "--port", str(place.port)]


def comfy(*command):
    """Run a command; return what it says, line by line, and whether it worked."""
    # `download` has no --host and --port.
    environment = {**os.environ, "COMFY_LOCAL_URL": url, "COMFY_NO_WATCH": "1"}
    program = Path(sys.executable).with_name("comfy")
    done = subprocess.run(
        [sys.executable, program, "--skip-prompt", "--json-stream", *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert said, done.stderr
    return said, done.returncode == 0


def picture(prompt):
    Path("workflow.json").write_text(json.dumps(prompt))
    said, _ = comfy("run", "--workflow", "workflow.json", "--wait", *there)
    prompt_id = said[-1]["data"]["prompt_id"]
    comfy("download", prompt_id, "--out-dir", "out", "--where", "local")
    (file,) = Path("out").iterdir()
    return {
        "prompt_id": prompt_id,
        "picture": base64.b64encode(file.read_bytes()).decode(),
        "events": [event["type"] for event in said],
    }


def upload(path):
    said, _ = comfy("upload", path, "--overwrite", *there)
    return said[-1]["data"]["uploads"][0]["cloud_name"]


def queue():
    said, _ = comfy("jobs", "ls", *there)
    return [each["prompt_id"] for each in said[-1]["data"]["jobs"]]


def cancel(prompt_id):
    return comfy("jobs", "cancel", prompt_id, *there)[1]


def download(prompt_id):
    return comfy("download", prompt_id, "--out-dir", "out", "--where", "local")[1]


print(json.dumps(globals()[verb](*map(json.loads, arguments))))
