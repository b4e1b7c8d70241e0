"""Every message that the client gets from a daemon in these tests is held to the OpenRPC document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fabstir_client.protocol import Session
from tests.support.schema import hold_message


@pytest.fixture(autouse=True)
def held_to_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Session.receive

    def checked(self: Session[Any], message: bytes) -> Any:
        parsed = json.loads(message)
        pending = self._pending.get(parsed.get("id"))
        hold_message(parsed, pending and pending.method)
        return receive(self, message)

    monkeypatch.setattr(Session, "receive", checked)
