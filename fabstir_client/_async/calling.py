"""One call on a link that nobody else reads."""

from __future__ import annotations

from fabstir_client._async.concurrency import now
from fabstir_client._async.link import Link
from fabstir_client._core.discovery import Target
from fabstir_client._core.protocol import Call, Notification, Pending, Session, T, earlier, unanswered
from fabstir_client.api.errors import ConnectionLost


async def request(
    link: Link, session: Session[None], call: Call[T], early: list[Notification], deadline: float | None = None
) -> T:
    """Make one call. Notifications that arrive before its answer are appended to ``early``.

    Raises `ClientTimeout`, at the latest at ``deadline``, `ConnectionLost` or the daemon's error. Unless the call was
    answered, the link is closed then, since a late answer would fit no later call.
    """
    began = now()
    ends = earlier(began + call.bound, deadline)
    pending, data = session.begin(call, None)
    try:
        try:
            await link.send(data, ends)
        except ConnectionLost:
            pass  # what the daemon sent before it closed can still be read; otherwise reading fails with the same error
        while pending.outcome is None:
            for message in await link.receive(ends):
                item = session.receive(message)
                if item is not None and not isinstance(item, Pending):
                    early.append(item)
    except TimeoutError:
        link.close()
        raise unanswered(call, ends - began) from None
    except BaseException:
        link.close()
        raise
    return call.read(pending.take())


async def call_once(target: Target, call: Call[T], deadline: float | None = None) -> T:
    """Connect, make one call, and close, within the call's own bound and by ``deadline``. Raises as `Link.open` and
    `request` do."""
    ends = earlier(now() + call.bound, deadline)
    link = await Link.open(target, ends)
    try:
        return await request(link, Session(), call, [], ends)
    finally:
        link.close()
