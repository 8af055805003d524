"""The people of the demo: names and groups from demo_users.yaml, one shared password."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

FILE = Path(__file__).with_name("demo_users.yaml")


@dataclass(frozen=True)
class Person:
    """One invented user."""

    name: str
    groups: tuple[str, ...]
    about: str


def people(file: Path = FILE) -> list[Person]:
    """The demo's users in the file's order."""
    users = yaml.safe_load(file.read_text(encoding="utf-8"))["users"]
    return [Person(name, tuple(about["groups"]), about["about"]) for name, about in users.items()]


def groups(file: Path = FILE) -> dict[str, list[str]]:
    """Group -> its members."""
    members: dict[str, list[str]] = {}
    for person in people(file):
        for group in person.groups:
            members.setdefault(group, []).append(person.name)
    return members


def password(file: Path = FILE) -> str:
    """The one shared password. No secret: `make demo` prints it, and everything that it opens is invented."""
    return str(yaml.safe_load(file.read_text(encoding="utf-8"))["password"])
