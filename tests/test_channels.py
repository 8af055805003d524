"""The channels: a client of a grant gets that grant's members, tables and families, each read counted and recorded."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from broker_world import until
from channel_world import LIMITED, NOBODY, Api, Holder, api, write_grant
from slice_world import PART2, A, C, D, E, F

import workbench as wb
from workbench.broker.channels import matrix
from workbench.lib import lmr
from workbench.schema import dictionary

pytestmark = pytest.mark.sandbox


def _events(served: Api, query: str) -> list[dict[str, Any]]:
    """What the log says of one read, once it has ended."""

    def found() -> list[dict[str, Any]]:
        return sorted((e for e in served.world.log() if e["query_id"] == query), key=lambda e: e["seq"])

    until(lambda: any(e["event"] in ("ended", "refused") for e in found()))
    return found()


def test_a_record_holds_every_section_or_says_why_not_each_with_date_and_sources(care: Holder) -> None:
    record = care.ask("GET", f"/members/{A}/record").json
    assert record["member_id"] == A
    assert record["mark"].startswith("SYNTHETIC DATA")
    assert "Not for immediate clinical decisions" in record["caution"]
    assert list(record["sections"]) == [*(s.name for s in lmr.SECTIONS), *lmr.NOT_HELD]
    for section in record["sections"].values():
        assert section["as_of"] == "2026-01-31"
        assert ("content" in section) != ("missing" in section)
    told = {name: s["content"] for name, s in record["sections"].items() if "content" in s}
    assert told["identity"]["last_name"] == "Canary0"
    assert told["coverage"][0]["plan_id"] == "sierra-vista"
    assert [c["code"] for c in told["conditions"]] == ["I10"]
    assert told["conditions"][0]["claims"] == 5
    assert {u["kind"]: u["days"] for u in told["use"] if u["year"] == 2025} == {"outpatient": 2}
    assert told["medications"][0]["fills"] == 5
    assert told["providers"] == [
        {
            "npi": "1000000001",
            "claims": 5,
            "last_date": "2025-09-15",
            "name": "Canary Clinic",
            "taxonomy": None,
        }
    ]


def test_a_record_holds_no_social_security_number_no_note_and_no_claim_that_the_grant_hides(
    care: Holder,
) -> None:
    body = care.ask("GET", f"/members/{A}/record").body.decode()
    assert "900-00-000" not in body
    assert "Canary note" not in body
    assert PART2 not in body
    assert "F1020" not in body


def test_the_risk_api_tells_tier_scores_and_reasons_in_words(care: Holder) -> None:
    found = care.ask("GET", f"/members/{C}/risk").json
    assert found["label"] == "RSST-shaped, not the DHCS RSST"
    assert found["risk"]["tier"] == "low"
    assert found["risk"]["scores"] == {"adverse_events": 6, "underutilisation": 0, "social_risk": 0}
    assert found["risk"]["reasons"] == [
        {"code": "ed_visits", "says": "Days with an emergency department visit"}
    ]
    assert set(found) & {"sections", "identity"} == set()


def test_a_member_without_a_tier_is_answered_without_one(care: Holder) -> None:
    assert care.ask("GET", f"/members/{F}/risk").json["risk"] is None


@pytest.mark.parametrize("what", ["record", "risk"])
@pytest.mark.parametrize("id", [D, E, NOBODY, "x" * 64, "x" * 5000, "%27%20OR%201=1", "%00", "..", "a%2Fb"])
def test_a_member_of_others_and_a_member_who_does_not_exist_get_one_answer(
    care: Holder, what: str, id: str
) -> None:
    reply = care.ask("GET", f"/members/{id}/{what}")
    if reply.json["code"] != "no-such-path":
        other = care.ask("GET", f"/members/{NOBODY}/{what}")
        assert (reply.status, reply.body) == (other.status, other.body)
    assert reply.status == 404
    assert id not in reply.body.decode()


def test_a_look_up_is_in_the_log_with_the_mark_of_the_member_before_it_leaves(
    served: Api, care: Holder
) -> None:
    for member, members in ((A, 1), (D, None), (NOBODY, None)):
        reply = care.ask("GET", f"/members/{member}/record")
        marks = [e for e in served.world.log() if e["subject"] == served.service.broker.audit.subject(member)]
        query = reply.headers.get("X-Query-Id") or marks[-1]["query_id"]
        first, last = _events(served, query)
        assert (first["event"], last["event"]) == ("admitted", "ended")
        assert first["subject"] == last["subject"] == served.service.broker.audit.subject(member)
        assert (first["user"], first["channel"]) == ("client:care-platform", "lmr_api")
        assert last["members"] == members
        assert last["code"] == (None if members else "unknown-member")
        assert member not in json.dumps([first, last])
    answered = _events(served, care.ask("GET", f"/members/{A}/record").headers["X-Query-Id"])[-1]
    assert answered["rows"] == 1
    assert answered["bytes"] > 1000


def test_what_may_hold_part_2_records_carries_the_notice_and_nothing_else_does(
    served: Api, care: Holder
) -> None:
    plan = served.client("plan-feed", "mcp-feed-sierra-vista", "operations")
    for path in (f"/members/{A}/record", f"/members/{A}/risk", "/feed"):
        reply = care.ask("GET", path)
        assert reply.headers["X-Workbench-Notice"] == "42-CFR-2.32"
        assert "42 CFR part 2" in reply.json["notice"]
    assert care.ask("GET", "/feed/member").headers["X-Workbench-Notice"] == "42-CFR-2.32"
    reply = plan.ask("GET", "/feed")
    assert "X-Workbench-Notice" not in reply.headers
    assert "notice" not in reply.json


def test_every_file_of_the_feed_is_what_its_manifest_says(served: Api, care: Holder) -> None:
    manifest = care.ask("GET", "/feed").json
    assert manifest["mark"].startswith("SYNTHETIC DATA")
    assert {"member", "diagnosis", "pharmacy_claim"} <= set(manifest["tables"])
    for entry in manifest["tables"].values():
        rows = 0
        for file in entry["files"]:
            reply = care.ask("GET", file["path"])
            assert hashlib.sha256(reply.body).hexdigest() == file["sha256"]
            assert reply.headers["X-Workbench-SHA256"] == file["sha256"]
            assert reply.headers["X-Workbench-Synthetic"] == "true"
            assert len(reply.body) == file["bytes"]
            read = pq.read_table(io.BytesIO(reply.body))
            assert read.column_names == [column["name"] for column in entry["columns"]]
            assert read.num_rows == file["rows"]
            rows += read.num_rows
            if "member_id" in read.column_names:
                assert set(read["member_id"].to_pylist()) <= {A, C, F}
        assert rows == entry["rows"]


def test_a_feed_file_is_counted_in_rows_bytes_and_members(served: Api, care: Holder) -> None:
    reply = care.ask("GET", "/feed/diagnosis")
    last = _events(served, reply.headers["X-Query-Id"])[-1]
    assert last["rows"] == int(reply.headers["X-Workbench-Rows"]) > 0
    assert last["bytes"] == len(reply.body)
    assert last["members"] == 3
    assert last["channel"] == "feed"


def test_the_feed_lacks_what_the_matrix_keeps_in(care: Holder) -> None:
    manifest = care.ask("GET", "/feed").json
    member = manifest["tables"]["member"]
    assert set(member["withheld"]) == {"death_date", "language", "phone", "email"}
    assert not set(member["withheld"]) & {column["name"] for column in member["columns"]}
    assert set(manifest["tables_withheld"]) == {
        "care_note",
        "sensitive_claim",
        "measure_event",
        "risk_tier",
    }
    assert care.ask("GET", "/feed/risk_tier").status == 404
    assert care.ask("GET", "/feed/care_note").status == 404


def test_a_limited_feed_has_tokens_and_no_direct_identifiers(served: Api) -> None:
    limited = served.client("limited-feed", LIMITED, "operations")
    reply = limited.ask("GET", "/feed/member")
    read = pq.read_table(io.BytesIO(reply.body))
    assert not set(read["member_id"].to_pylist()) & {A, C, F}
    assert not {"ssn", "last_name", "street"} & set(read.column_names)
    assert reply.headers["X-Workbench-Level"] == "limited"


@pytest.mark.parametrize(
    "path", ["/feed/nothing", "/feed/member?part=7", "/feed/..%2Fmanifest.json", "/feed/record"]
)
def test_a_file_that_the_feed_does_not_have_is_not_found(care: Holder, path: str) -> None:
    reply = care.ask("GET", path)
    assert reply.status == 404
    assert reply.json["code"] in ("unknown-feed-part", "no-such-path")


def test_the_days_limit_stops_a_feed_before_its_first_byte(served: Api) -> None:
    with api() as fresh:
        write_grant(fresh.world, "api-care", limits={"rows_per_day": 12})
        holder = fresh.client("small-feed")
        assert holder.ask("GET", "/feed/member").status == 200
        reply = holder.ask("GET", "/feed/diagnosis")
        assert reply.status == 429
        assert reply.json["code"] == "day-limit"
        assert 0 < int(reply.headers["Retry-After"]) <= 86_400
        assert holder.ask("GET", f"/members/{A}/record").status == 200


def test_each_channel_needs_the_grant_to_open_it(served: Api) -> None:
    limited = served.client("limited-only", LIMITED, "operations")
    for path in (f"/members/{A}/record", f"/members/{A}/risk"):
        reply = limited.ask("GET", path)
        assert reply.status == 403, path
    assert limited.ask("POST", "/tabulate", {"table": "members_by_county", "year": 2025}).status == 403
    tables = served.client("tables-only", "api-public", "program_administration")
    assert tables.ask("GET", "/feed").status == 403
    assert tables.ask("POST", "/tabulate", {"table": "members_by_county", "year": 2025}).status == 200


def test_a_server_of_the_hub_has_the_channels_of_its_own_grant_alone(served: Api) -> None:
    open_ = served.world.bind("ana", "api-care", "operations")
    reply = open_.ask("GET", f"/members/{A}/record")
    assert reply.status == 200
    events = _events(served, reply.headers["X-Query-Id"])
    assert {(e["user"], e["channel"]) for e in events} == {("ana", "lmr_api")}
    assert open_.ask("GET", "/feed").status == 200
    closed = served.world.bind("ana", "demo-analyst", "operations")
    assert closed.ask("GET", f"/members/{A}/record").status == 403
    assert closed.ask("GET", "/feed/member").status == 403


def test_a_notebook_asks_for_one_member_by_name_of_the_method(served: Api) -> None:
    bound = served.world.bind("ana", "api-care", "operations")
    session = wb.connect(bound.socket, bound.token)
    assert session.record(A)["member_id"] == A
    assert session.risk(C)["risk"]["tier"] == "low"
    with pytest.raises(wb.WorkbenchError, match="no such member"):
        session.record(D)


def test_an_expired_grant_ends_its_clients_at_the_next_request(served: Api) -> None:
    with api() as fresh:
        holder = fresh.client("soon-over")
        assert holder.ask("GET", f"/members/{A}/risk").status == 200
        over = (datetime.now(UTC).date() - timedelta(days=2)).isoformat()
        write_grant(fresh.world, "api-care", valid_from="2025-01-01", valid_until=over)
        reply = holder.ask("GET", f"/members/{A}/risk")
        assert reply.status == 403
        assert reply.json["code"] == "grant-expired"


def test_every_table_has_a_family_and_every_family_a_line_for_each_channel() -> None:
    assert matrix.gaps() == []
    for entry in matrix.matrix():
        assert entry.source
        assert entry.status in ("inferred", "our own")
        assert (entry.confidence is None) == (entry.status == "our own")


def test_the_matrix_has_as_many_open_channels_as_the_faq_counts() -> None:
    counts = {"APCD-CDL": 4, "SUME": 3, "Risk Tiering": 3} | dict.fromkeys(
        ("ECM/CS QIMR and JSON", "274", "PCPA", "WIC", "Quality Measures", "Program and Service Flags"), 2
    )
    for family, count in counts.items():
        assert sum(e.open for e in matrix.matrix() if e.family == family) == count


def test_a_channel_serves_no_column_of_a_family_that_is_closed_to_it() -> None:
    rows = {
        (r["table"], r["column"]): r["family"]
        for r in csv.DictReader(io.StringIO(matrix._text("families.csv")))
    }
    for table, spec in dictionary().items():
        for channel in ("feed", "risk_api", "lmr_api"):
            served = matrix.permitted(channel, table, spec.columns)
            for column in spec.columns:
                family = rows.get((table, column), rows[(table, "")])
                closed = not matrix.opens(channel, family) or not matrix.opens(channel, rows[(table, "")])
                assert (column not in served) == closed
