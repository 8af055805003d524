"""The auditors' pages: the log, the review queue, who saw a member; for auditors alone, each look an event."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa
from hub_fixture import RunningHub

from workbench.reports.audit_page import BadFilter, filters, line
from workbench.reports.audit_plot import volume

PAGE = "/services/reports/audit"
NOTHING = {"user": "", "grant": "", "since": "", "limit": ""}
MEMBER = "90000001A"


def _events(hub: RunningHub, event: str) -> list[Any]:
    engine = sa.create_engine(f"sqlite:///{hub.data.state / 'broker.sqlite'}")
    try:
        with engine.connect() as connection:
            query = sa.text("SELECT * FROM audit_event WHERE event = :event ORDER BY seq")
            return list(connection.execute(query, {"event": event}))
    finally:
        engine.dispose()


def _form(page: str) -> dict[str, str]:
    """The hidden fields of the page's first POST form."""
    form = re.search(r'<form[^>]*method="post".*?</form>', page, re.DOTALL)
    assert form, page
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[0])
    assert {name for name, _ in found} >= {"_xsrf"}
    return dict(found)


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
@pytest.mark.sandbox
def test_every_look_of_an_auditor_is_an_event_of_the_chain(hub, asked):
    before = len(_events(hub, "audit-read"))
    hub.visitor("audrey").get(PAGE + "?user=rui&event=ended")
    new = _events(hub, "audit-read")[before:]
    assert [(event.user, event.channel) for event in new] == [("audrey", "reports")]
    assert "user=rui" in new[0].statement
    hub.visitor("rui").get(PAGE)
    assert (_events(hub, "audit-refused")[-1].user, _events(hub, "audit-refused")[-1].code) == (
        "rui",
        "not-an-auditor",
    )


@pytest.mark.hub
@pytest.mark.sandbox
def test_an_auditor_signs_off_on_the_page_and_the_item_is_gone(hub, asked):
    audrey = hub.visitor("audrey")
    page = audrey.get(PAGE + "/review")
    assert "First read of this person under this grant" in page.text and "SYNTHETIC DATA" in page.text
    assert page.text.count("<svg") == 2, "one for wide pages, one for phones"
    fields = _form(page.text)
    answer = audrey.session.post(hub.url + PAGE + "/review", data=fields | {"note": "Known study."})
    assert answer.status_code == 200 and f"{fields['item']} is signed off" in answer.text
    assert f'id="{fields["item"]}"' not in answer.text
    signed = _events(hub, "review-signed")[-1]
    assert (signed.user, signed.reason) == ("audrey", "Known study.") and fields["item"] in signed.detail
    again = audrey.session.post(hub.url + PAGE + "/review", data=fields)
    assert again.status_code == 404 and "no such item" in again.text


@pytest.mark.hub
@pytest.mark.sandbox
@pytest.mark.parametrize("path", ["/review", "/who-saw"])
def test_a_form_of_another_site_signs_and_asks_nothing(hub, asked, path):
    audrey = hub.visitor("audrey")
    audrey.get(PAGE + "/review")
    before = len(_events(hub, "review-signed")), len(_events(hub, "audit-who-saw"))
    for forged in ({}, {"_xsrf": "forged"}):
        body = {"item": "F1", "note": "Looks fine to me.", "member": MEMBER, **forged}
        answer = audrey.session.post(
            hub.url + PAGE + path,
            data=body,
            headers={"Origin": "https://elsewhere.example"},
            allow_redirects=False,
        )
        assert answer.status_code == 403
    assert before == (len(_events(hub, "review-signed")), len(_events(hub, "audit-who-saw")))


@pytest.mark.hub
@pytest.mark.sandbox
def test_who_saw_a_member_is_asked_on_the_page_and_the_question_is_an_event_without_the_id(hub, asked):
    audrey = hub.visitor("audrey")
    fields = _form(audrey.get(PAGE + "/who-saw").text)
    found = audrey.session.post(hub.url + PAGE + "/who-saw", data=fields | {"member": MEMBER})
    assert found.status_code == 200 and "How sure it is" in found.text
    event = _events(hub, "audit-who-saw")[-1]
    assert event.user == "audrey" and event.subject.startswith("@")
    assert MEMBER not in str(tuple(event))
    broken = audrey.session.post(hub.url + PAGE + "/who-saw", data=fields | {"member": "<script>" * 20})
    assert broken.status_code == 400 and "<script>" not in broken.text


@pytest.mark.hub
@pytest.mark.sandbox
@pytest.mark.parametrize("path", ["/review", "/who-saw"])
def test_the_other_pages_are_for_auditors_alone_too(hub, asked, path):
    for name in ("ana", "pat"):
        visitor = hub.visitor(name)
        assert visitor.get(PAGE + path).status_code == 403
        xsrf = {"_xsrf": visitor._xsrf("/services/reports/")}
        answer = visitor.session.post(hub.url + PAGE + path, data={"item": "F1", "member": MEMBER, **xsrf})
        assert answer.status_code == 403


@pytest.mark.hub
def test_an_auditor_is_led_to_the_log_from_the_first_page(hub):
    audrey = hub.visitor("audrey")
    assert f'href="{PAGE}"' in audrey.get("/hub/home").text
    assert f'href="{PAGE}"' in audrey.get("/services/reports/").text


@pytest.mark.hub
@pytest.mark.parametrize(
    "wrong", ["since=yesterday", "limit=9", "limit=all", "user=%3Cscript%3E", "until=soon", "before=x"]
)
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


def test_an_answers_members_are_told_beside_its_rows():
    shown = line({"seq": 1, "at": "2026-11-22T15:00:15.1", "event": "ended", "rows": 12, "members": 3})
    assert shown.amount == "12 rows · 3 members"


def _day(day: str, user: str, rows: int) -> dict[str, Any]:
    return {"day": day, "user": user, "rows": rows}


def test_the_plot_draws_those_who_took_most_and_marks_synthetic_data():
    days = [
        _day("2026-11-20", user, rows)
        for user, rows in (("ana", 900), ("rui", 50), ("o:x", 70), ("d", 5), ("e", 4))
    ]
    drawn = volume([*days, _day("2026-01-01", "old", 10**9)], date(2026, 11, 22), synthetic=True)
    assert set(drawn) == {"wide", "phone"}
    for svg in drawn.values():
        for word in ("Rows taken a day", "ana", "rui", "o:x", "all others", "SYNTHETIC DATA", "Nov"):
            assert word in svg, word
        assert ">d<" not in svg and "old" not in svg and "<script" not in svg
    assert "SYNTHETIC" not in volume(days, date(2026, 11, 22), synthetic=False)["wide"]
    assert volume([], date(2026, 11, 22), synthetic=True) == {}
