"""The demo's groups are what its file of people says, whatever an earlier start of the Hub remembered."""

from __future__ import annotations

from pathlib import Path

from jupyterhub import orm

from hub_config.authentication import forget_memberships


def test_a_group_taken_away_in_the_file_is_gone_after_the_next_start(tmp_path: Path) -> None:
    database = tmp_path / "jupyterhub.sqlite"
    session = orm.new_session_factory(f"sqlite:///{database}")()
    group = orm.Group(name="mcp-sierra-vista")
    session.add_all([group, orm.User(name="ana")])
    session.flush()
    group.users.append(orm.User.find(session, "ana"))
    session.commit()
    assert [user.name for user in orm.Group.find(session, "mcp-sierra-vista").users] == ["ana"]
    session.close()
    forget_memberships(database)
    session = orm.new_session_factory(f"sqlite:///{database}")()
    assert orm.Group.find(session, "mcp-sierra-vista").users == []
    assert orm.User.find(session, "ana") is not None
    session.close()


def test_a_hub_that_never_ran_has_nothing_to_forget(tmp_path: Path) -> None:
    forget_memberships(tmp_path / "jupyterhub.sqlite")
    assert not (tmp_path / "jupyterhub.sqlite").exists()
