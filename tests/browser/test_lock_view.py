"""The view of the lock, in a real browser."""

from __future__ import annotations

import copy

from playwright.sync_api import Page, expect

from tests.browser.gallery import LINE, POOL, WAITING, holder, pool
from tests.browser.widget_page import XSRF, faults_for_screen_readers, widget_page

ME = holder("me.1", "a.ipynb", since=100.5)
MINE = {"gpu_1": {"holders": [ME, holder("d.1", "d.ipynb")]}}


def row(page: Page, comfy_id: str):
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=comfy_id))


def sent(page: Page) -> list[dict[str, object]]:
    return [
        {key: value for key, value in message.items() if key != "id"}
        for message in page.evaluate("window.sent")
    ]


def test_it_shows_what_is_locked_and_what_could_be() -> None:
    with widget_page(view="lock", holder_id="me.1", pool=[]) as (page, server):
        server.pool = pool(**MINE)
        page.evaluate("pool => window.set('pool', pool)", server.pool)
        expect(page.locator(".jp-Comfy-badge")).to_have_text("locked")
        expect(page.get_by_text("shared with 1 other")).to_be_visible()
        expect(row(page, "gpu-1")).to_contain_text("this notebook")
        expect(row(page, "gpu-1")).to_contain_text("2 of 4 free")
        expect(row(page, "gpu-2")).to_contain_text("held exclusively")
        expect(row(page, "gpu-3")).to_contain_text("unreachable: no answer for 12 s")
        expect(row(page, "gpu-4")).to_contain_text("draining by ann: new driver")
        for comfy_id in ("gpu-3", "gpu-4"):
            expect(row(page, comfy_id).get_by_role("button")).to_be_disabled()
        assert faults_for_screen_readers(page) == []
        page.evaluate("() => { window.answer = window.hears; }")
        row(page, "gpu-2").get_by_role("button", name="Wait for it: gpu-2").click()
        page.get_by_role("button", name="Have it alone").click()
        page.get_by_role("button", name="Release").click()
        assert sent(page) == [
            {"kind": "lock", "comfy_id": "gpu-2", "mode": "", "wait": True},
            {"kind": "lock", "comfy_id": "gpu-1", "mode": "exclusive", "wait": True},
            {"kind": "release", "comfy_id": "gpu-1", "since": 100.5},
        ]
        # The kernel heard it: nobody has to be asked to force anything.
        assert server.asked == []


def test_a_kernel_that_runs_a_cell_is_said_to_and_its_lock_can_be_taken_by_the_server() -> None:
    with widget_page(view="lock", holder_id="me.1", pool=pool(**MINE)) as (page, server):
        server.pool = pool(**MINE)
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_text("The kernel runs a cell, or is gone")).to_be_visible()
        server.pool = pool()
        server.cancel_status = 200
        page.get_by_role("button", name="Release now, cancel its prompts").click()
        expect(page.locator(".jp-Comfy-badge")).to_have_text("no lock")
        assert server.asked == [("POST", "comfy-lock/api/holders/me.1/release", XSRF)]


def test_the_jupyter_server_tells_what_a_silent_kernel_does_not() -> None:
    with widget_page(view="lock", holder_id="me.1", pool=[]) as (page, server):
        server.pool = pool(**MINE)
        expect(page.locator(".jp-Comfy-badge")).to_have_text("locked")
        server.pool = pool()
        expect(page.locator(".jp-Comfy-badge")).to_have_text("no lock")


def test_who_waits_sees_its_place_and_can_leave_the_line() -> None:
    waits = copy.deepcopy(pool(gpu_2={**POOL[1], "waiting": LINE}))
    with widget_page(
        in_jupyter=False, view="lock", holder_id="me.1", pool=waits, waiting=WAITING, note="no: R3"
    ) as (page, _):
        expect(page.locator(".jp-Comfy-badge")).to_have_text("waiting")
        expect(page.get_by_role("status")).to_contain_text("you are 2nd")
        expect(row(page, "gpu-2")).to_contain_text("2. this notebook")
        expect(page.get_by_role("alert")).to_have_text("no: R3")
        page.get_by_role("button", name="Leave the line").click()
        assert {"kind": "leave"} in sent(page)
