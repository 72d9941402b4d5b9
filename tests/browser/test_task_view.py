"""The task view, in a real browser."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.widget_page import XSRF, faults_for_screen_readers, picture, widget_page

#: What a person reads; what a screen reader says is less, and the view's only live region.
LINE = ".jp-ComfyTask-text"
#: Keeps bytes in the page as a kernel's message brings them.
BYTES = "bytes => { window.bytes = new DataView(new Uint8Array(bytes).buffer); }"


def task(**fields: Any) -> dict[str, Any]:
    return {
        "task_id": "t-1",
        "state": "running",
        "reason": None,
        "comfy_id": "gpu-1",
        "started_at": 100.0,
        "ended_at": None,
        "queue": None,
        "progress": {
            "nodes_done": 3,
            "nodes_total": 7,
            "node_id": "3",
            "node_class": "KSampler",
            "value": 12,
            "max": 20,
            "preview": 0,
        },
        "cached": False,
        "files": [],
        "outputs": {},
        "error": None,
        "dropped": {},
        **fields,
    }


def steps(value: int, preview: int) -> dict[str, Any]:
    return {**task()["progress"], "value": value, "preview": preview}


def file(n: int, media_type: str = "image/png") -> dict[str, Any]:
    return {
        "node_id": "9",
        "kind": "images",
        "filename": f"file-{n}",
        "media_type": media_type,
        "path": f"comfy-lock/api/tasks/t-1/files/{n}",
    }


def show(page: Page, **fields: Any) -> None:
    page.evaluate("task => window.set('task', task)", task(**fields))


def test_a_running_task_shows_where_it_is_and_how_far() -> None:
    with widget_page() as (page, _):
        show(page)
        page.evaluate("window.set('label', 'Portrait')")
        view = page.locator("#view")
        expect(view.locator(".jp-ComfyTask-title")).to_have_text("Portrait")
        expect(view.locator(".jp-ComfyTask-badge")).to_have_text("running")
        expect(view.locator(LINE)).to_have_text("gpu-1 · 3 of 7 nodes · KSampler 12/20")
        nodes, step = view.get_by_role("progressbar").all()
        # Three of seven, and of the fourth what is done of it.
        expect(nodes).to_have_attribute("aria-valuenow", "51")
        expect(nodes).to_have_attribute("aria-valuetext", "3 of 7 nodes")
        expect(step).to_have_attribute("aria-valuenow", "60")
        expect(step).to_have_attribute("aria-valuetext", "KSampler 12/20")


def test_previews_come_by_url_and_replace_each_other_in_place() -> None:
    with widget_page() as (page, server):
        preview = page.locator("#view .jp-ComfyTask-preview")
        show(page, progress=steps(1, preview=1))
        expect(preview).to_be_visible()
        preview.evaluate("node => { window.first = node; window.src = node.src; }")
        show(page, progress=steps(2, preview=2))
        page.wait_for_function("window.first.src !== window.src && window.first.naturalWidth")
        assert preview.evaluate("node => node === window.first")
        assert server.asked == [
            ("GET", "comfy-lock/api/tasks/t-1/preview?v=1", XSRF),
            ("GET", "comfy-lock/api/tasks/t-1/preview?v=2", XSRF),
        ]


def test_many_draws_ask_for_the_newest_preview_only() -> None:
    with widget_page() as (page, server):
        page.evaluate(
            "tasks => { for (const task of tasks) window.set('task', task); }",
            [task(progress=steps(n % 20, preview=n)) for n in range(1, 101)],
        )
        expect(page.locator("#view .jp-ComfyTask-preview")).to_be_visible()
        with page.expect_response("**/preview?v=101"):
            show(page, progress=steps(20, preview=101))
        # The first was on its way already, the 98 between were never worth a request.
        assert [path.rpartition("=")[2] for _, path, _ in server.asked] == ["1", "100", "101"]


def test_pictures_make_a_gallery_and_one_opens_large_until_escape() -> None:
    with widget_page() as (page, _):
        show(page, state="succeeded", ended_at=104.2, files=[file(0), file(1)])
        expect(page.locator(LINE)).to_have_text("gpu-1 · 2 pictures · 4.2 s")
        expect(page.get_by_role("progressbar")).to_have_count(0)
        expect(page.locator(".jp-ComfyTask-thumbnail img:visible")).to_have_count(2)
        page.get_by_role("button", name="file-1").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog", name="file-1")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_sound_texts_and_other_files_are_there_in_place() -> None:
    with widget_page() as (page, _):
        outputs = {"9": {"text": ["A lighthouse.", ""]}}
        show(
            page,
            state="succeeded",
            files=[file(0, "audio/mpeg"), file(1, "video/mp4"), file(2, "text/csv")],
            outputs=outputs,
        )
        expect(page.locator("audio[src^=blob]")).to_have_count(1)
        expect(page.locator("video[src^=blob]")).to_have_count(1)
        expect(page.locator("pre.jp-Comfy-said")).to_have_text(["A lighthouse."])
        with page.expect_download() as download:
            page.get_by_role("button", name="Download file-2").click()
        assert download.value.suggested_filename.startswith("file-2")


def test_the_nodes_are_told_by_their_titles_and_in_words() -> None:
    nodes = [
        {"id": str(n), "title": title, "class": f"Class{n}"}
        for n, title in enumerate(["Load", "Text", "Sample", "Save"])
    ]
    values = [
        {"node_id": "1", "name": "text", "value": "a lake <b>"},
        {"node_id": "2", "name": "seed", "value": "18446744073709551615"},
    ]
    progress = {
        **steps(12, 0),
        **{"node_id": "2", "done_node_ids": ["0", "1"], "cached_node_ids": ["0"]},
    }
    with widget_page(nodes=nodes, parameters=values) as (page, _):
        show(page, progress=progress)
        page.get_by_text("Nodes: 1 cached, 1 done, 1 running, 1 waiting").click()
        items = page.locator(".jp-Comfy-node")
        expect(items).to_have_text(
            [
                re.compile(r"Load\s*Class0, 0\s*cached"),
                re.compile(r"Text.*done"),
                re.compile(r"Sample.*running"),
                re.compile(r"Save.*waiting"),
            ]
        )
        page.get_by_text("Parameters").click()
        expect(page.locator(".jp-Comfy-value")).to_have_text(
            ["text a lake <b>", "seed 18446744073709551615"]
        )
        assert faults_for_screen_readers(page) == []
        show(page, state="cancelled", progress=progress)
        expect(items.nth(3)).to_contain_text("did not run")


def test_arrow_keys_go_through_the_pictures_and_one_can_be_kept() -> None:
    with widget_page() as (page, _):
        show(page, state="succeeded", files=[file(n) for n in range(3)])
        page.get_by_role("button", name="file-0").click()
        caption = page.locator(".jp-Comfy-caption")
        for key, shown in [
            ("ArrowRight", "2 of 3 · file-1"),
            ("End", "3 of 3 · file-2"),
            ("ArrowRight", "1 of 3 · file-0"),
            ("ArrowLeft", "3 of 3 · file-2"),
        ]:
            page.keyboard.press(key)
            expect(caption).to_have_text(shown)
        assert faults_for_screen_readers(page) == []
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        assert download.value.suggested_filename.startswith("file-2")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)


def test_steps_are_not_read_out_again_and_again() -> None:
    with widget_page() as (page, _):
        for value in (3, 12):
            show(page, progress=steps(value, preview=0))
            expect(page.get_by_role("status")).to_have_text("gpu-1: running")


def test_cancel_asks_the_jupyter_server_and_not_the_busy_kernel() -> None:
    with widget_page() as (page, server):
        show(page)
        with page.expect_response("**/cancel"):
            page.get_by_role("button", name="Cancel").click()
        assert server.asked == [("POST", "comfy-lock/api/tasks/t-1/cancel", XSRF)]
        assert page.evaluate("window.sent") == []
        show(page, state="cancelled")
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)


def test_a_cancel_that_is_refused_says_why_and_can_be_tried_again() -> None:
    with widget_page() as (page, server):
        server.cancel_status = 403
        show(page)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("Could not cancel: not your task")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).to_be_enabled()


def test_the_end_is_asked_of_the_jupyter_server_when_the_kernel_is_silent() -> None:
    with widget_page() as (page, server):
        server.task = (200, task(state="cancelled", reason="its kernel ended: it was restarted"))
        show(page)
        expect(page.locator(".jp-ComfyTask-badge")).to_have_text("cancelled")
        expect(page.locator(LINE)).to_have_text(
            "gpu-1 · because its kernel ended: it was restarted"
        )
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        assert server.looks == 1
        # What the kernel had sent before it died may come late.
        show(page)
        expect(page.locator(".jp-ComfyTask-badge")).to_have_text("cancelled")


def test_after_a_cancel_the_jupyter_server_is_asked_at_once() -> None:
    with widget_page() as (page, server):
        page.clock.install()  # no time passes
        server.task = (200, task(state="cancelled", reason="by the Jupyter user"))
        show(page)
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(LINE)).to_have_text("gpu-1 · by the Jupyter user")


@pytest.mark.complaint(16)
def test_a_page_that_is_seen_again_asks_at_once() -> None:
    with widget_page() as (page, server):
        page.clock.install()
        server.task = (200, task(state="succeeded"))
        show(page)
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator(".jp-ComfyTask-badge")).to_have_text("succeeded")


def test_a_task_that_the_jupyter_server_does_not_know_is_not_shown_as_running() -> None:
    with widget_page() as (page, server):
        server.task = (404, {"code": "unknown_task", "message": "no such task"})
        show(page)
        badge = page.locator(".jp-ComfyTask-badge")
        expect(badge).to_have_text("unknown to the Jupyter server")
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        expect(page.get_by_role("progressbar")).to_have_count(0)


def test_a_failed_task_shows_node_class_and_exception_and_hides_the_traceback() -> None:
    with widget_page() as (page, _):
        error = {
            "node_id": "4",
            "node_class": "TrRaise",
            "exception_type": "ValueError",
            "message": "boom",
            "traceback": ["in run\n", "raise ValueError\n"],
        }
        show(page, state="failed", error=error)
        title = page.get_by_text("TrRaise (node 4): ValueError: boom")
        expect(title).to_be_visible()
        expect(page.locator("pre")).to_be_hidden()
        title.click()
        expect(page.locator("pre")).to_have_text("in run\nraise ValueError\n")


def test_outputs_that_were_left_out_are_named() -> None:
    with widget_page() as (page, _):
        errors = [{"type": "x", "message": "Required input is missing", "details": "images"}]
        show(page, dropped={"9": {"class_type": "SaveImage", "errors": errors}})
        expect(page.get_by_role("listitem")).to_have_text(
            "SaveImage (node 9) was left out: Required input is missing: images"
        )


def test_where_there_is_no_jupyter_page_the_kernel_is_asked_for_everything() -> None:
    with widget_page(in_jupyter=False) as (page, server):
        page.evaluate(BYTES, list(picture(1)))
        show(page, progress=steps(12, preview=4))
        preview = page.locator(".jp-ComfyTask-preview")
        expect(preview).to_be_hidden()
        # The kernel sends it by itself: one that runs a cell could not be asked.
        page.evaluate("window.say({ kind: 'preview', task_id: 't-1' }, [window.bytes])")
        expect(preview).to_be_visible()
        show(page, state="succeeded", files=[file(0), file(1)])
        first = "comfy-lock/api/tasks/t-1/files/0"
        page.wait_for_function("window.sent.length === 2")
        sent = page.evaluate("window.sent")
        assert (sent[0]["kind"], sent[0]["path"]) == ("fetch", first)
        page.evaluate(
            """sent => {
              window.say({ kind: 'bytes', id: sent[0].id }, [window.bytes]);
              window.say({ kind: 'bytes', id: sent[1].id, error: 'it is gone' });
            }""",
            sent,
        )
        expect(page.locator(".jp-ComfyTask-thumbnail img:visible")).to_have_count(1)
        expect(page.get_by_text("file-1: it is gone")).to_be_visible()
        assert server.asked == []


@pytest.mark.parametrize("in_jupyter", [False, True])
def test_a_page_that_does_not_know_the_kernel_has_the_kernel_cancel(in_jupyter: bool) -> None:
    with widget_page(in_jupyter=in_jupyter, by_comm=True) as (page, server):
        show(page)
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("the kernel hears of it when its cell has ended")).to_be_visible()
        page.evaluate("() => { window.answer = window.hears; }")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("Could not cancel")).to_have_count(0)
        assert [it["kind"] for it in page.evaluate("window.sent")] == ["cancel", "cancel"]
        assert server.asked == []


def test_a_view_that_ended_listens_no_more() -> None:
    with widget_page() as (page, _):
        show(page)
        page.evaluate("window.life.abort()")
        left = page.evaluate("[...window.listeners.values()].flat().length")
        assert left == 0
