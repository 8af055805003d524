"""Promises of the register of consents: the newest decision counts, at once, and for its own recipient and scope alone."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import slice_world
from broker_world import PATIENCE, SLOW, Reply, World, new_world, until
from click.testing import CliRunner

from workbench.broker import consent
from workbench.broker.audit import events
from workbench.broker.consent import ConsentRefused, Consents, Decision, decision_of, read_decisions
from workbench.broker.grants import GrantBook, OrganisationRegistry
from workbench.broker.state import State
from workbench.cli import consent as consent_commands
from workbench.cli import demo_consents, program
from workbench.days import today
from workbench.errors import WorkbenchError
from workbench.schema.sensitive import Category

TODAY = today()
NOW = datetime.now(UTC)
# decisions in the order in which they were written: (scope, from, until, revoked, decided days ago) → consents to part2?
TRUTH: dict[str, tuple[list[tuple[str, int, int | None, bool, int]], bool]] = {
    "none": ([], False),
    "given": ([("part2", -10, None, False, 5)], True),
    "given for all": ([("all", -10, None, False, 5)], True),
    "for another category": ([("hiv", -10, None, False, 5)], False),
    "not begun": ([("part2", 1, None, False, 5)], False),
    "begins today": ([("part2", 0, None, False, 5)], True),
    "ends today": ([("part2", -10, 0, False, 5)], True),
    "lapsed": ([("part2", -10, -1, False, 5)], False),
    "revoked": ([("part2", -10, None, False, 5), ("part2", -10, None, True, 1)], False),
    "revoked, then given": ([("part2", -10, None, True, 5), ("part2", -10, None, False, 1)], True),
    "an older revocation comes late": ([("part2", -10, None, False, 1), ("part2", -10, None, True, 5)], True),
    "all revoked": ([("part2", -10, None, False, 5), ("all", -10, None, True, 1)], False),
    "another category revoked": ([("all", -10, None, False, 5), ("hiv", -10, None, True, 1)], True),
    "a newer short one replaces a long one": (
        [("part2", -10, None, False, 5), ("part2", -10, -1, False, 1)],
        False,
    ),
    "two of one moment: the revocation, if written first": (
        [("part2", -9, None, True, 1), ("part2", -9, None, False, 1)],
        False,
    ),
    "two of one moment: the revocation": (
        [("part2", -9, None, False, 1), ("part2", -9, None, True, 1)],
        False,
    ),
}


@pytest.fixture(autouse=True)
def _one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """The day on which these tests began is today, also past midnight."""
    monkeypatch.setattr(consent, "today", lambda: TODAY)


@pytest.fixture
def register(tmp_path: Path) -> Iterator[Consents]:
    state = State(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "state")
    yield Consents(state)
    state.close()


def decided(scope: str, start: int, until: int | None, revoked: bool, ago: int, **more: Any) -> Decision:
    return Decision(
        **{"member_id": "A", "recipient": "plan", "source": "form 1", **more},
        scope=scope,
        start=TODAY + timedelta(days=start),
        until=None if until is None else TODAY + timedelta(days=until),
        revoked=revoked,
        decided_at=NOW - timedelta(days=ago),
    )


@pytest.mark.parametrize("case", TRUTH)
def test_the_newest_decision_counts_alone(register: Consents, case: str) -> None:
    decisions, expected = TRUTH[case]
    for decision in decisions:
        register.decide([decided(*decision)])
    assert register.view("plan", ["part2"]).members["part2"] == ({"A"} if expected else set())


def test_the_epoch_changes_with_a_decision_and_when_one_lapses_and_comes_back_with_the_same_consents(
    register: Consents,
) -> None:
    epochs = [register.view("plan", ["part2"]).epoch]
    for ago, revoked in ((2, False), (1, True), (0, False)):
        register.decide([decided("part2", -10, 3, revoked, ago)])
        epochs.append(register.view("plan", ["part2"]).epoch)
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]
    assert register.view("plan", ["part2"], on=TODAY + timedelta(days=4)).epoch == epochs[0]


def test_a_view_in_use_is_made_anew_by_the_decision_and_not_by_who_asks_next(
    register: Consents, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = register.view("plan", ["part2"])
    register.decide([Decision("A", "plan", "part2", "form 1", date(2025, 1, 1))])
    with monkeypatch.context() as broken:
        broken.setattr(Consents, "_view", None)
        assert register.view("plan", ["part2"]).members == {"part2": {"A"}}
    assert before.members == {"part2": frozenset()}


def test_a_decision_counts_though_no_view_of_it_could_be_made(
    register: Consents, monkeypatch: pytest.MonkeyPatch
) -> None:
    register.decide([Decision("A", "plan", "part2", "form 1", date(2025, 1, 1))])
    assert register.view("plan", ["part2"]).members == {"part2": {"A"}}
    with monkeypatch.context() as broken, pytest.raises(TypeError):
        broken.setattr(Consents, "_view", None)
        register.decide([Decision("A", "plan", "part2", "form 2", date(2025, 1, 1), revoked=True)])
    assert register.view("plan", ["part2"]).members == {"part2": frozenset()}


def test_no_decision_about_another_recipient_or_category_changes_an_epoch(register: Consents) -> None:
    before = register.view("plan", ["part2"]).epoch
    register.decide([decided("part2", -10, None, False, 1, recipient="other-plan")])
    register.decide([decided("hiv", -10, None, False, 1)])
    assert register.view("plan", ["part2"]).epoch == before
    assert register.view("plan", []).epoch == ""


@pytest.mark.parametrize(
    "said",
    [
        {"scope": "everything"},
        {"member_id": ""},
        {"recipient": "a\nb"},
        {"source": ""},
        {"from": "2026-02-01", "until": "2026-01-01"},
        {"from": "tomorrow"},
        {"revoked": "maybe"},
        {"decided_at": (NOW + timedelta(days=2)).isoformat()},
    ],
    ids=str,
)
def test_a_decision_that_makes_no_sense_is_refused_and_nothing_is_written(
    register: Consents, said: dict[str, str]
) -> None:
    good = {"member_id": "A", "recipient": "plan", "scope": "part2", "source": "form 1"}
    with pytest.raises(ConsentRefused):
        register.decide([decision_of(good), decision_of(good | said)])
    assert register.listed() == []


def test_a_file_is_read_whole_or_refused_by_line_without_its_values(
    register: Consents, tmp_path: Path
) -> None:
    file = tmp_path / "decisions.csv"
    head = "member_id,recipient,scope,from,until,revoked,decided_at,source\n"
    file.write_text(head + "A,plan,part2,2026-01-01,,no,,form 1\nB,plan,all,2026-01-01,,yes,,letter\n")
    assert register.decide(read_decisions(file)) == 2
    assert [(d["member_id"], d["revoked"], d["counts"]) for d in register.listed()] == [
        ("A", False, True),
        ("B", True, True),
    ]
    file.write_text(head + "A,plan,part2,2026-01-01,,no,,form 1\nCANARY,plan,nonsense,2026-01-01,,no,,form\n")
    with pytest.raises(ConsentRefused, match="Line 3") as caught:
        read_decisions(file)
    assert "CANARY" not in str(caught.value) and "nonsense" not in str(caught.value)


def test_a_decision_is_listed_as_counting_while_it_is_the_newest_of_one_of_its_categories(
    register: Consents,
) -> None:
    rng = random.Random(7)
    scopes = ["all", *Category]
    written = []
    for _ in range(400):
        given = decided(
            rng.choice(scopes), -10, None, rng.random() < 0.5, rng.randrange(1, 6),
            member_id=rng.choice("ABC"), recipient=rng.choice(["plan", "clinic"]),
        )  # fmt: skip
        register.decide([given])
        written.append(given)
    newest: dict[tuple[str, str, str], tuple[Any, bool, int]] = {}
    for number, one in enumerate(written):
        for category in Category if one.scope == "all" else [one.scope]:
            key = (one.member_id, one.recipient, str(category))
            newest[key] = max(
                newest.get(key, (NOW - timedelta(99), False, -1)), (one.decided_at, one.revoked, number)
            )
    counting = {number for _, _, number in newest.values()}
    assert [row["counts"] for row in register.listed()] == [n in counting for n in range(400)]
    of_one = register.listed(member_id="A", recipient="plan")
    assert [row["counts"] for row in of_one] == [
        n in counting for n, one in enumerate(written) if (one.member_id, one.recipient) == ("A", "plan")
    ]


def test_a_page_of_a_long_register_is_read_without_the_rest(register: Consents) -> None:
    for _ in range(4):
        register.decide(
            [decided("part2", -10, None, False, 1, member_id=f"M{n % 9_000}") for n in range(25_000)]
        )
    tracemalloc.start()
    page, after, seen = register.listed(limit=500), 0, 0
    while page:
        assert [row["id"] for row in page] == list(range(after + 1, after + 1 + len(page)))
        after, seen = page[-1]["id"], seen + len(page)
        page = register.listed(after=after, limit=500) if seen < 3_000 else []
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (seen, len(register.listed())) == (3_000, 1_000)
    assert most < 5_000_000


PLAN_BY_CONSENT: dict[str, Any] = {
    "name": "plan-by-consent",
    "title": "Care management with consent",
    "groups": ["mcp-sierra-vista"],
    "organisation": {"relation": "mcp", "ids": [slice_world.SIERRA]},
    "recipient": {"id": slice_world.SIERRA, "state": "CA"},
    "level": "identified",
    "tables": ["member", "medical_claim", "diagnosis"],
    "sensitive": {"part2": "with_consent", "basis": "consent_tpo"},
    "purposes": ["treatment"],
    "agreement": "A-0",
    "approver": "The release office",
    "valid_from": "2026-01-01",
    "valid_until": "2036-12-31",
    "channels": ["notebook"],
}
SEEN = f"SELECT count(*) AS n FROM medical_claim WHERE claim_id = '{slice_world.PART2}'"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    import yaml

    with new_world() as found:
        (found.where.grants / "plan-by-consent.yaml").write_text(yaml.safe_dump(PLAN_BY_CONSENT))
        yield found


def operator(world: World, sql: str) -> Reply:
    while True:
        reply = world.control("POST", "/query", {"grant": "plan-by-consent", "sql": sql})
        if reply.status != 202:
            return reply


def tell(world: World, member: str, revoked: bool) -> None:
    said = {"member_id": member, "recipient": slice_world.SIERRA, "scope": "part2", "source": "form 7"}
    reply = world.control("POST", "/consents", {"decisions": [{**said, "revoked": revoked}]})
    assert reply.status == 201, reply.json


def test_a_decision_counts_for_the_next_request_and_cuts_the_answer_that_runs(world: World) -> None:
    from threading import Thread

    with world.serve() as service:
        assert operator(world, SEEN).table["n"].to_pylist() == [0]
        first = world.log()[-1]["seq"]
        tell(world, slice_world.A, revoked=False)
        assert operator(world, SEEN).table["n"].to_pylist() == [1]
        replies: list[Reply] = []
        running = Thread(target=lambda: replies.append(operator(world, SLOW)))
        before = len(world.log(event="admitted"))
        running.start()
        until(lambda: len(world.log(event="admitted")) > before and service.broker.pool.pids()["busy"])
        tell(world, slice_world.A, revoked=True)
        running.join(PATIENCE)
        assert replies[0].status >= 400 and replies[0].json["code"] == "consent-changed"
        assert operator(world, SEEN).table["n"].to_pylist() == [0]

        def kept() -> int:
            manifests = [s["manifest"] for s in world.control("GET", "/slices").json["slices"]]
            return len([m for m in manifests if m["grant"] == "plan-by-consent"])

        until(lambda: kept() == 1)  # the one with the claim is gone
        events = world.control("GET", "/audit").json["events"]
    told = [e for e in events if e["seq"] > first and e["event"] in ("consent-given", "consent-revoked")]
    assert sorted(e["event"] for e in told) == ["consent-given", "consent-revoked"]
    assert all(e["subject"] and slice_world.A not in str(e) for e in told)


def test_what_nobody_has_asked_for_in_long_is_not_built_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.serve() as service:
        assert operator(world, SEEN).table["n"].to_pylist() == [0]
        monkeypatch.setattr("workbench.broker.shelf.FORGOTTEN_SECONDS", 0.0)
        tell(world, slice_world.A, revoked=False)
        assert not service.broker.shelf._builds and not service.broker.shelf._given
        assert operator(world, SEEN).table["n"].to_pylist() == [1]
        tell(world, slice_world.A, revoked=True)
        assert operator(world, SEEN).table["n"].to_pylist() == [0]


def test_a_slice_is_evicted_by_hand_and_built_again_when_it_is_asked_for(world: World) -> None:
    with world.serve() as service:
        operator(world, SEEN)
        id = next(
            s["id"]
            for s in world.control("GET", "/slices").json["slices"]
            if s["manifest"]["kind"] == "slice"
        )
        assert world.control("DELETE", f"/slices/{id}").json["code"] == "slice-in-use"
        service.broker.shelf._taken.clear()  # a minute later
        assert world.control("DELETE", f"/slices/{id}").status == 204
        assert world.control("GET", "/slices").json["slices"] == []
        assert world.control("DELETE", f"/slices/{id}").json["code"] == "unknown-slice"
        assert operator(world, SEEN).table["n"].to_pylist() == [0]


def test_the_command_line_gives_imports_lists_and_revokes(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "decisions.csv"
    file.write_text(
        "member_id,recipient,scope,from,until,revoked,decided_at,source\n00000003C,study,hiv,2026-01-01,,no,,form 9\n"
    )
    run = CliRunner().invoke
    with world.serve():
        done = run(program, ["consent", "import", str(file), "--even-unknown"])
        assert done.stdout == "1 decision written down.\n"
        assert "no grant has the recipient study" in done.stderr
        give = ["consent", "give", "00000004D", "--recipient", "study", "--source", "form 10"]
        given = run(program, [*give, "--even-unknown"])
        assert given.exit_code == 0, given.output
        run(program, ["consent", "revoke", "00000004D", "--recipient", "study", "--source", "letter"])
        slip = run(program, ["consent", "revoke", "0000000XX", "--recipient", "study", "--source", "letter"])
        assert "not in the latest release" in slip.stderr and "release" not in done.stderr
        listed = json.loads(run(program, ["consent", "list", "--recipient", "study", "--json"]).output)
        assert run(program, ["consent", "list"]).exit_code == 0
    assert [(d["member_id"], d["scope"], d["revoked"], d["counts"]) for d in listed] == [
        ("00000003C", "hiv", False, True),
        ("00000004D", "all", False, False),
        ("00000004D", "all", True, True),
        ("0000000XX", "all", True, True),
    ]


@pytest.mark.parametrize(
    ("member", "recipient", "says"),
    [
        ("0000000XX", "sierra-vista", "1 of the members are not in the latest release"),
        ("00000004D", "sierra-vsta", "1 of the consents are for a recipient of no grant"),
    ],
)
def test_a_consent_of_an_unknown_member_or_recipient_is_refused_and_not_written(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, member: str, recipient: str, says: str
) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "decisions.csv"
    lines = (
        f"00000003C,sierra-vista,hiv,2026-01-01,,no,,slip-{recipient}",
        f"{member},{recipient},hiv,2026-01-01,,no,,x",
    )
    file.write_text(
        "member_id,recipient,scope,from,until,revoked,decided_at,source\n" + "\n".join(lines) + "\n"
    )
    run = CliRunner().invoke
    with world.serve():
        before = world.control("GET", "/consents").json["consents"]
        for arguments in (["give", member, "--recipient", recipient, "--source", "x"], ["import", str(file)]):
            refused = run(program, ["consent", *arguments])
            assert refused.exit_code == 1 and isinstance(refused.exception, WorkbenchError)
            assert says in refused.exception.reason and "--even-unknown" in refused.exception.hint
            assert member not in str(refused.exception)
        assert world.control("GET", "/consents").json["consents"] == before
        monkeypatch.setattr(consent_commands, "BATCH", 1)
        with file.open("a") as more:
            more.write("00000004D,sierra-vista,hiv,2026-01-01,,yes,,letter\n")
        mixed = run(program, ["consent", "import", str(file)])
        assert mixed.exit_code == 1 and "1 of the decisions revoke" in mixed.stderr
        (alone,) = world.control("GET", "/consents").json["consents"][len(before) :]
        assert (alone["member_id"], alone["revoked"]) == ("00000004D", True)
        revoked = run(program, ["consent", "revoke", member, "--recipient", recipient, "--source", "x"])
        assert revoked.exit_code == 0 and "warning: " in revoked.stderr


def test_the_register_is_listed_page_by_page_and_the_command_line_follows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)
    given = [
        {"member_id": f"{n:08}P", "recipient": "paged", "scope": "hiv", "source": "form"}
        for n in range(2_345)
    ]
    with world.serve():
        assert world.control("POST", "/consents", {"decisions": given}).status == 201
        path, seen, pages = "/consents?recipient=paged&limit=1000", [], []
        after: int | None = 0
        while after is not None:
            answer = world.control("GET", f"{path}&after={after}").json
            seen += [one["member_id"] for one in answer["consents"]]
            pages.append(len(answer["consents"]))
            after = answer["after"]
        assert pages == [1_000, 1_000, 345]
        assert len(world.control("GET", "/consents?recipient=paged&limit=999999").json["consents"]) == 1_000
        shown = CliRunner().invoke(program, ["consent", "list", "--recipient", "paged", "--json"])
        table = CliRunner().invoke(program, ["consent", "list", "--recipient", "paged"])
        none = CliRunner().invoke(program, ["consent", "list", "--recipient", "nobody", "--json"])
        for wrong in ("limit=0", "limit=-1", "after=x", "limit=1e3"):
            assert world.control("GET", f"/consents?{wrong}").json["code"] == "bad-request"
    assert seen == [one["member_id"] for one in given]
    assert [one["member_id"] for one in json.loads(shown.output)] == seen
    assert all(member in table.output for member in seen)
    assert json.loads(none.output) == []


def test_over_the_disk_budget_the_slice_that_nobody_uses_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_SLICE_BUDGET", "1")
    monkeypatch.setattr("workbench.broker.shelf.STILL_WANTED_SECONDS", 0.0)
    with world.serve():
        assert operator(world, SEEN).status == 200
        first = {s["id"] for s in world.control("GET", "/slices").json["slices"]}
        reply = world.control(
            "POST", "/query", {"grant": "demo-analyst", "sql": "SELECT count(*) FROM member"}
        )
        while reply.status == 202:
            reply = world.control(
                "POST", "/query", {"grant": "demo-analyst", "sql": "SELECT count(*) FROM member"}
            )
        assert reply.status == 200, reply.json
        left = {s["id"] for s in world.control("GET", "/slices").json["slices"]}
        assert len(left) == 1 and not left & first
        assert operator(world, SEEN).status == 200
        evicted = [e for e in world.control("GET", "/audit").json["events"] if e["event"] == "slice-evicted"]
    assert {e["slice"] for e in evicted} >= first


def test_the_demos_people_have_signed_once_and_each_signature_is_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_consents, "SHARE_OF_TEN", 10)
    release = slice_world.release(tmp_path / "lake")
    care = slice_world.grant(
        name="care",
        groups=["sierra-vista-care"],
        recipient={"id": "sierra-vista", "state": "CA"},
        sensitive={"part2": "with_consent", "basis": "consent_tpo"},
        purposes=["treatment"],
    )
    book = GrantBook([care], OrganisationRegistry({}))
    state = State(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "state")
    try:
        assert demo_consents.sign(release, book, state, {"another-group"}) == 0
        signed = demo_consents.sign(release, book, state, {"sierra-vista-care"})
        view = Consents(state).view("sierra-vista", ["part2"])
        assert signed == len(view.members["part2"]) == 1
        assert demo_consents.sign(release, book, state, {"sierra-vista-care"}) == 0, "not twice"
        said = [e for e in events(state.engine) if e["event"] == "consent-given"]
        assert [e["detail"] for e in said] == ["sierra-vista part2"]
    finally:
        state.close()
