"""The spawn page with few grants and with many: by level, to be searched only where there are many, on a phone too."""

from __future__ import annotations

import shutil

import pytest
from playwright.sync_api import sync_playwright

from hub_config.control import Option
from hub_config.options import SEARCHABLE_FROM, render


def grant(name: str, level: str, title: str = "A county's own", **more: bool) -> Option:
    channels = ("tabulate", "apps") if level == "aggregate" else ("notebook",)
    return Option(name, title, level, ("research", "operations"), channels, more.get("allowed", True), "")


def test_grants_stand_by_level_the_most_telling_first() -> None:
    page = render(
        [grant("a", "aggregate"), grant("b", "safe_harbor"), grant("c", "identified"), grant("d", "limited")]
    )
    places = [page.index(f'id="title-{name}"') for name in ("c", "d", "b", "a")]
    assert places == sorted(places)
    assert page.count("<section") == 4


@pytest.mark.parametrize(("count", "searchable"), [(SEARCHABLE_FROM - 1, False), (SEARCHABLE_FROM, True)])
def test_the_field_to_search_is_there_only_where_there_are_many(count: int, searchable: bool) -> None:
    page = render([grant(f"g{n}", "limited") for n in range(count)])
    assert ('id="find-grant"' in page) is searchable


def test_who_can_give_a_grant_is_named_to_who_has_none_and_is_never_markup() -> None:
    page = render([grant("a", "limited", allowed=False)], givers=["Data <b>Office</b>", "County"])
    assert "Grants are given by: Data &lt;b&gt;Office&lt;/b&gt;; County." in page
    assert 'data-can-start="no"' in page
    assert "County" not in render([grant("a", "limited")], givers=["County"])


@pytest.mark.browser
def test_a_word_leaves_the_grants_that_have_it_and_none_is_told() -> None:
    counties = [
        grant(f"county-{n:02d}-health", "limited", f"Public health office {n:02d}") for n in range(1, 59)
    ]
    page_html = render([*counties, grant("state", "safe_harbor", "Whole State")])
    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.set_content(page_html)
        shown = page.locator(".wb-card:visible")
        assert shown.count() == 59
        page.fill("#find-grant", "OFFICE 19")
        assert shown.count() == 1 and page.locator("section:visible").count() == 1
        page.fill("#find-grant", "whole")
        assert page.locator("h3:visible").all_inner_texts() == ["Whole State"]
        page.fill("#find-grant", "nowhere")
        assert shown.count() == 0 and page.is_visible("#found-none")
        page.fill("#find-grant", "")
        assert shown.count() == 59 and not page.is_visible("#found-none")
        browser.close()
