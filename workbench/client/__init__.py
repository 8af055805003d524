"""What a kernel imports to reach the broker: `connect()` and the session it returns.

The client knows the broker over HTTP on a unix socket only. Nothing here decides what a user may see; the broker
does, and the client shows its answers and refusals.
"""

from workbench.client.errors import (
    BrokerBusy,
    BrokerRefusal,
    BrokerUnreachable,
    NoToken,
    ResultCutOff,
    TokenRefused,
)
from workbench.client.result import Result
from workbench.client.session import Session, connect

__all__ = [
    "BrokerBusy",
    "BrokerRefusal",
    "BrokerUnreachable",
    "NoToken",
    "Result",
    "ResultCutOff",
    "Session",
    "TokenRefused",
    "connect",
]
