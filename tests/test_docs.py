"""Docs are part of the change: generated pages are fresh, every link leads somewhere, every promise has its test."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from workbench.broker.grants import GrantBook

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])


def _generator():
    spec = importlib.util.spec_from_file_location("generate_docs", PROJECT / "scripts" / "generate_docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_fresh():
    assert _generator().stale() == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(PROJECT)))
def test_every_relative_link_of_the_docs_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_security_promise_names_tests_that_exist():
    text = (PROJECT / "docs" / "security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| S")]
    assert len(rows) >= 12
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (PROJECT / file).read_text(), f"{file}::{test}"


def test_every_direct_dependency_says_why_it_is_there():
    page = (PROJECT / "docs" / "dependencies.md").read_text()
    lines = [
        line
        for name in ("bootstrap", "workbench", "dev")
        for line in (PROJECT / "requirements" / f"{name}.in").read_text().splitlines()
    ]
    names = {re.split(r"[=<>\[]", line)[0] for line in lines if line and not line.startswith(("#", "-r"))}
    assert sorted(name for name in names if f"| {name} |" not in page) == []


def test_every_setting_of_the_environment_is_documented():
    named = set()
    for package in ("workbench", "hub_config"):
        for file in (PROJECT / package).rglob("*.py"):
            named |= set(re.findall(r"WORKBENCH_[A-Z]+(?:_[A-Z]+)*", file.read_text()))
    page = (PROJECT / "docs" / "settings.md").read_text()
    inner = {"WORKBENCH_LISTEN_FD", "WORKBENCH_CHANNEL"}
    assert sorted(name for name in named - inner if f"`{name}`" not in page) == []


def test_no_committed_requirement_names_a_registry():
    for file in (PROJECT / "requirements").glob("*.txt"):
        assert "://" not in file.read_text(), file.name
    assert '"resolved"' not in (PROJECT / "requirements" / "proxy" / "package-lock.json").read_text()


def test_the_demo_users_hold_only_groups_that_some_grant_names():
    users = yaml.safe_load((PROJECT / "hub_config" / "demo_users.yaml").read_text())["users"]
    named = {group for grant in GrantBook.load(PROJECT / "grants") for group in grant.groups}
    groups = {group for user in users.values() for group in user["groups"]} - {"auditors", "operators"}
    assert sorted(groups - named) == []
