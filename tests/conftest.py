"""Fixtures that several test modules share."""

pytest_plugins = ["hub_fixture", "broker_world", "channel_world"]
