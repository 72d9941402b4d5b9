"""The sweep view, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, expect

from tests.browser.widget_page import FakeJupyter, widget_page

API = "comfy-lock/api/tasks"
#: Three seeds to the right, two values of cfg down.
GRID = {
    "columns": "seed",
    "rows": "cfg",
    "blocks": [
        {
            "title": "steps = 9",
            "columns": ["0", "1", "2"],
            "rows": ["4", "7"],
            "cells": [[0, 1, 2], [3, 4, 5]],
        }
    ],
}


def traits(states: str, **more: Any) -> dict[str, Any]:
    sent = [f"t-{n}" if letter not in "wu" else "" for n, letter in enumerate(states)]
    return {
        "view": "sweep",
        "grid": GRID,
        "label": "gpu-1",
        "state": "running",
        "left": "",
        "note": "",
        "states": states,
        "tasks": sent,
        "pictures": [0 if letter == "s" else -1 for letter in states],
        "progress": {},
        "reasons": [],
        **more,
    }


@contextmanager
def sweep_page(
    states: str, *, in_jupyter: bool = True, **more: Any
) -> Iterator[tuple[Page, FakeJupyter]]:
    """A page that shows a sweep from the first moment, as after a reload."""
    with widget_page(in_jupyter=in_jupyter) as (page, server):
        # The page has a task's view at first.
        page.evaluate(
            """traits => {
                const old = document.getElementById('view');
                old.replaceWith(Object.assign(document.createElement('div'), { id: 'view' }));
                for (const [name, value] of Object.entries(traits)) window.set(name, value);
                return import('./widget.js').then(({ default: widget }) =>
                    widget.render({
                        model: window.model, el: document.getElementById('view'),
                        signal: window.life.signal
                    }));
            }""",
            traits(states, **more),
        )
        yield page, server


def show(page: Page, states: str, **more: Any) -> None:
    page.evaluate(
        "traits => { for (const [name, value] of Object.entries(traits)) set(name, value); }",
        traits(states, **more),
    )


def cancelled(server: FakeJupyter) -> list[str]:
    posts = [path for method, path, _ in server.asked if method == "POST"]
    return [path.removeprefix(f"{API}/").removesuffix("/cancel") for path in posts]


def test_it_is_a_table_with_headers_one_bar_and_a_line() -> None:
    with sweep_page("sfrqww", left="12 s") as (page, _):
        view = page.locator("#view")
        expect(view.get_by_role("status")).to_have_text(
            "1 of 6 done, 1 failed, 2 in flight, 2 waiting"
        )
        expect(view.locator(".jp-ComfySweep-left")).to_have_text("about 12 s left")
        table = view.get_by_role("table", name="steps = 9")
        headers = table.get_by_role("columnheader").all_text_contents()
        assert headers == ["seed", "cfg", "0", "1", "2"]
        assert table.get_by_role("rowheader").all_text_contents() == ["4", "7"]
        bar = view.get_by_role("progressbar", name="Progress of the sweep")
        expect(bar).to_have_attribute("aria-valuenow", "33")
        expect(view.locator("td[data-state=waiting]").first).to_have_text("waiting")


def test_pictures_come_by_url_in_place_and_one_opens_large() -> None:
    with sweep_page("rwwwww") as (page, server):
        show(page, "srwwww")
        expect(page.locator(".jp-ComfySweep-picture img")).to_be_visible()
        assert [path for _, path, _ in server.asked] == [f"{API}/t-0/files/0"]
        show(page, "ssrwww")
        second = page.get_by_role("button", name="seed = 1, cfg = 4, steps = 9")
        second.click()
        expect(page.get_by_role("dialog", name="seed = 1, cfg = 4, steps = 9")).to_be_visible()
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_role("dialog", name="seed = 0, cfg = 4, steps = 9")).to_be_visible()
        page.keyboard.press("Escape")
        # Each was fetched once.
        assert [path for _, path, _ in server.asked] == [f"{API}/t-{n}/files/0" for n in (0, 1)]


def test_arrow_keys_go_from_picture_to_picture_over_what_is_none() -> None:
    with sweep_page("sfsfws") as (page, _):
        pictures = page.locator(".jp-ComfySweep-picture:visible")
        expect(pictures).to_have_count(3)
        assert page.locator(".jp-ComfySweep-picture[tabindex='0']").count() == 1
        page.get_by_role("button", name="seed = 0, cfg = 4").focus()
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("button", name="seed = 2, cfg = 4")).to_be_focused()
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("button", name="seed = 2, cfg = 7")).to_be_focused()
        # There is nothing further down.
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("button", name="seed = 2, cfg = 7")).to_be_focused()


def test_a_running_cell_shows_its_preview_and_how_far_it_is() -> None:
    progress = {"nodes_done": 1, "nodes_total": 2, "node_id": "3", "preview": 4}
    with sweep_page("rwwwww", progress={"0": progress}) as (page, server):
        expect(page.locator(".jp-ComfySweep-preview")).to_be_visible()
        bar = page.get_by_role("progressbar", name="Progress of this picture")
        expect(bar).to_have_attribute("aria-valuenow", "50")
        assert [path for _, path, _ in server.asked] == [f"{API}/t-0/preview?v=4"]
        show(page, "fwwwww")
        expect(page.locator(".jp-ComfySweep-preview")).to_have_count(0)


def test_failures_are_in_their_place_and_each_reason_is_told_once() -> None:
    reasons = [["out of memory", [1, 4]], ["by the Jupyter user", [5]]]
    with sweep_page("sfsffc", state="failed", reasons=reasons) as (page, _):
        cell = page.locator("td").filter(has_text="out of memory")
        expect(cell).to_have_count(2)
        expect(cell.first).to_contain_text("failed")
        assert page.get_by_role("listitem").all_text_contents() == ["2 failed: out of memory"]
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_cancel_ends_what_is_in_flight_by_http_and_tells_the_kernel_for_the_rest() -> None:
    with sweep_page("srqwww") as (page, server):
        expect(page.locator(".jp-ComfySweep-picture img")).to_be_visible()
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("button", name="Cancel")).to_be_enabled()
        assert cancelled(server) == ["t-1", "t-2"]
        assert page.evaluate("window.sent") == [{"kind": "cancel"}]
        # One that was on its way just then is cancelled too, and none twice.
        with page.expect_response("**/t-3/cancel"):
            show(page, "scqqww")
        assert cancelled(server) == ["t-1", "t-2", "t-3"]
        show(page, "scccuu", state="cancelled")
        expect(page.get_by_role("button", name="Resume")).to_be_visible()


def test_a_cancel_that_is_refused_says_why() -> None:
    with sweep_page("rwwwww") as (page, server):
        server.cancel_status = 403
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("Could not cancel: not your task")).to_be_visible()


def test_resume_is_told_to_the_kernel_and_its_refusal_is_shown() -> None:
    with sweep_page("suuuuu", state="stopped", note="gpu-1 is gone") as (page, _):
        expect(page.get_by_role("listitem")).to_have_text("gpu-1 is gone")
        page.get_by_role("button", name="Resume").click()
        assert page.evaluate("window.sent") == [{"kind": "resume"}]
        show(page, "suuuuu", state="stopped", note="none is held")
        expect(page.get_by_role("listitem")).to_have_text("none is held")


def test_the_jupyter_server_is_asked_when_the_kernel_is_silent() -> None:
    states = "srwwww"
    with sweep_page(states) as (page, server):
        server.task = (
            200,
            {"task_id": "t-1", "state": "cancelled", "reason": "its kernel ended"},
        )
        expect(page.get_by_text("The kernel of this sweep does not answer")).to_be_visible()
        expect(page.get_by_role("status")).to_have_text("1 of 6 done, 1 cancelled, 4 waiting")


def test_outside_of_jupyter_there_is_text_alone_and_cancel_goes_to_the_kernel() -> None:
    with sweep_page("srwwww", in_jupyter=False) as (page, server):
        expect(page.get_by_role("status")).to_have_text("1 of 6 done, 1 in flight, 4 waiting")
        page.get_by_role("button", name="Cancel").click()
        page.wait_for_function("window.sent.length")
        assert page.evaluate("window.sent") == [{"kind": "cancel"}]
        assert server.asked == []


def test_a_view_that_ended_listens_no_more() -> None:
    with sweep_page("srwwww") as (page, _):
        page.evaluate("window.life.abort()")
        assert page.evaluate("[...window.listeners.values()].flat().length") == 0
