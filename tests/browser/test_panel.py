"""The form of a workflow, in a real browser."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.test_task_view import file, task
from tests.browser.widget_page import faults_for_screen_readers, picture, widget_page

SEED = str(2**64 - 1)


def field(key: str, kind: str, value: Any, **more: Any) -> dict[str, Any]:
    node_id, _, name = key.partition(".")
    return {
        **{"key": key, "name": name, "node_id": node_id, "title": f"Node {node_id}"},
        **{"class": "X", "kind": kind, "value": value, "min": None, "max": None, "step": None},
        **{"choices": [], "tooltip": "", "seed": False, **more},
    }


MANY = [f"model-{n}" for n in range(40)]
FIELDS = [
    field("3.seed", "int", "7", min="0", max=SEED, seed=True),
    field("3.cfg", "float", 7.5, min=0, max=100, step=0.5),
    field("3.sampler", "choice", "euler", choices=["euler", "ddim"]),
    field("3.noise", "bool", True),
    field("4.model", "choice", "model-7", choices=MANY),
    field("6.text", "long", "a lake"),
    field("9.image", "image", "a.png", choices=["a.png"]),
]
VALUES = {each["key"]: each["value"] for each in FIELDS}


def form(**traits: Any):
    return widget_page(view="panel", fields=FIELDS, values=VALUES, **traits)


def sent(page: Page, kind: str) -> list[dict[str, Any]]:
    return [it for it in page.evaluate("window.sent") if it["kind"] == kind]


def wait_for(page: Page, kind: str, times: int = 1) -> list[dict[str, Any]]:
    page.wait_for_function(
        f"window.sent.filter(it => it.kind === '{kind}').length >= {times}",
    )
    return sent(page, kind)


def test_the_form_sets_values_each_of_its_kind() -> None:
    with form() as (page, _):
        expect(page.get_by_role("group", name="Node 3")).to_be_visible()
        assert faults_for_screen_readers(page) == []
        page.get_by_label("cfg").fill("4.5")
        page.get_by_label("sampler").select_option("ddim")
        page.get_by_label("noise").uncheck()
        page.get_by_label("text").fill("a sea\nat night")
        page.get_by_label("seed").fill(SEED)
        page.get_by_label("model").fill("model-31")
        told = {}
        for message in wait_for(page, "set", 6):
            told |= message["values"]
        assert told == {
            **{"3.cfg": 4.5, "3.sampler": "ddim", "3.noise": False, "3.seed": SEED},
            **{"6.text": "a sea\nat night", "4.model": "model-31"},
        }


def test_what_does_not_fit_is_said_at_once_and_nothing_is_sent() -> None:
    with form() as (page, _):
        page.get_by_label("cfg").fill("101")
        expect(page.get_by_text("must be at most 100")).to_be_visible()
        expect(page.get_by_label("cfg")).to_have_attribute("aria-invalid", "true")
        page.get_by_label("seed").fill("18446744073709551616")
        expect(page.get_by_text(f"must be at most {SEED}")).to_be_visible()
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_label("seed")).to_be_focused()
        assert page.evaluate("window.sent") == []
        page.get_by_label("seed").fill("1")
        page.get_by_label("cfg").fill("8")
        page.evaluate("window.set('errors', { '3.cfg': 'no, said the kernel' })")
        page.get_by_label("seed").focus()
        expect(page.get_by_text("no, said the kernel")).to_be_visible()


def test_a_random_seed_is_another_one() -> None:
    with form() as (page, _):
        page.get_by_role("button", name="Random").click()
        (message,) = wait_for(page, "set")
        assert 0 <= int(message["values"]["3.seed"]) <= 2**50
        assert message["values"]["3.seed"] != "7"


def test_run_sends_the_whole_form_and_says_when_the_kernel_is_busy() -> None:
    with form() as (page, _):
        page.get_by_label("text").fill("a sea")
        page.get_by_label("text").press("Shift+Enter")  # the notebook's, not the form's
        page.get_by_role("button", name="Run").click()
        expect(page.get_by_role("status").filter(has_text="runs a cell")).to_be_visible()
        (message,) = sent(page, "submit")
        assert message["values"] == {**VALUES, "6.text": "a sea\n"}
        expect(page.get_by_role("button", name="Run")).to_be_disabled()
        page.evaluate("message => window.hears(message)", message)
        expect(page.get_by_role("button", name="Run")).to_be_enabled()
        expect(page.get_by_text("runs a cell")).to_have_count(0)


def test_the_task_is_under_the_form_and_pictures_of_those_before_too() -> None:
    with form() as (page, _):
        page.evaluate("task => window.set('task', task)", task())
        expect(page.locator(".jp-ComfyTask-badge")).to_have_text("running")
        ended = task(state="succeeded", files=[file(0), file(1)])
        page.evaluate("tasks => window.set('history', tasks)", [ended])
        page.get_by_text("Pictures before").click()
        expect(page.locator(".jp-ComfyTask-thumbnail img:visible")).to_have_count(2)


def test_a_picture_is_chosen_and_goes_to_the_kernel_as_it_is() -> None:
    with form() as (page, _):
        page.evaluate("() => { window.answer = (it, buffers) => { window.got = buffers; }; }")
        chosen = {"name": "me.png", "mimeType": "image/png", "buffer": picture(2)}
        page.locator("input[type=file]").set_input_files(chosen)
        (message,) = wait_for(page, "picture")
        assert (message["key"], message["filename"]) == ("9.image", "me.png")
        assert bytes(page.evaluate("[...new Uint8Array(window.got[0])]")) == picture(2)
        page.get_by_role("button", name="Run").click()
        assert "9.image" not in wait_for(page, "submit")[0]["values"]
        text = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no"}
        page.locator("input[type=file]").set_input_files(text)
        expect(page.get_by_text("a.txt is no picture")).to_be_visible()
