"""The auditors' page: who asked what, and when, for auditors alone, without a value or a member."""

from __future__ import annotations

import pytest
from hub_fixture import RunningHub

from workbench.reports.audit_page import BadFilter, filters, line

PAGE = "/services/reports/audit"
NOTHING = {"user": "", "grant": "", "since": "", "limit": ""}


@pytest.fixture(scope="module")
def asked(hub: RunningHub) -> str:
    """A statement of rui's with a value in it, asked in a kernel; gives the value."""
    visitor = hub.started("rui", "demo-research-sh", "research")
    kernel = visitor.kernel()
    kernel.run(
        "import workbench as wb\nwb.connect().sql(\"select count(*) from diagnosis where code = 'F999SECRET'\").arrow()"
    )
    kernel.close()
    visitor.stop()
    return "F999SECRET"


@pytest.mark.hub
@pytest.mark.sandbox
def test_an_auditor_reads_who_asked_what_and_no_value_of_a_statement(hub, asked):
    page = hub.visitor("audrey").get(PAGE + "?user=rui")
    assert page.status_code == 200
    for words in ("SYNTHETIC DATA", "rui", "demo-research-sh", "count ( * )", "diagnosis", "1 row"):
        assert words.lower() in page.text.lower(), words
    assert asked not in page.text
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


@pytest.mark.hub
@pytest.mark.sandbox
def test_the_log_can_be_narrowed_to_a_person_a_grant_and_a_day(hub, asked):
    audrey = hub.visitor("audrey")
    assert "count ( * )" in audrey.get(PAGE + "?grant=demo-research-sh").text.lower()
    assert "No event fits" in audrey.get(PAGE + "?user=nobody").text
    assert "No event fits" in audrey.get(PAGE + "?since=2099-01-01").text


@pytest.mark.hub
@pytest.mark.sandbox
@pytest.mark.parametrize("name", ["ana", "rui", "pat"])
def test_nobody_else_reads_the_log_or_is_led_to_it(hub, asked, name):
    visitor = hub.visitor(name)
    answer = visitor.get(PAGE)
    assert answer.status_code == 403
    assert "for auditors" in answer.text
    assert "count ( * )" not in answer.text.lower()
    assert "reports/audit" not in visitor.get("/hub/home").text


@pytest.mark.hub
def test_an_auditor_is_led_to_the_log_from_the_first_page(hub):
    audrey = hub.visitor("audrey")
    assert f'href="{PAGE}"' in audrey.get("/hub/home").text
    assert f'href="{PAGE}"' in audrey.get("/services/reports/").text


@pytest.mark.hub
@pytest.mark.parametrize("wrong", ["since=yesterday", "limit=9", "limit=all", "user=%3Cscript%3E"])
def test_a_filter_that_cannot_be_is_told_in_words(hub, wrong):
    answer = hub.visitor("audrey").get(f"{PAGE}?{wrong}")
    assert answer.status_code == 400
    assert "cannot be" in answer.text
    assert "<script>" not in answer.text


def test_filters_reach_the_broker_as_it_understands_them():
    wanted = filters({**NOTHING, "user": " ana ", "since": "2026-11-22", "limit": "1000"})
    assert wanted == {"user": "ana", "since": "2026-11-22T00:00:00", "limit": 1000}
    assert filters(NOTHING) == {"limit": 200}
    with pytest.raises(BadFilter):
        filters({**NOTHING, "grant": "a b"})


def test_an_event_is_told_with_its_rows_and_reason_once():
    shown = line(
        {
            "seq": 7,
            "at": "2026-11-22T15:00:15.1",
            "event": "refused",
            "reason": "No.",
            "detail": "No.",
            "rows": 1,
        }
    )
    assert (shown.at, shown.what, shown.amount) == ("2026-11-22 15:00:15", "No.", "1 row")
