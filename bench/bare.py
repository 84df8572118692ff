"""The ceiling: the same bytes sent to the same endpoint, and nothing else done.

One thread drives libcurl's multi interface, which is the least that Python
can do for a POST: no database, no signature, no address checked.
"""

from __future__ import annotations

import datetime
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import pycurl

from bench.stand import Endpoints
from ckanext.webhooks import encryption
from ckanext.webhooks.deliver import message, signing

IN_FLIGHT = 64


@dataclass(frozen=True)
class Run:
    """What one run gave.

    :ivar rate: requests a second
    :ivar sender, receiver: microseconds of CPU for a request
    """

    rate: float
    sender: float
    receiver: float


def measure(endpoints: Endpoints, content: str, format_: str, number: int, webhooks: int) -> Run:
    """Send an event so many times, in turns to so many addresses.

    :param content: JSON of the dataset
    """
    body, headers = request(content, format_)
    addresses = [endpoints.address(f"good/{n % webhooks}") for n in range(number)]
    endpoints.take()
    receiver = psutil.Process(endpoints.process.pid)
    before, sent, started = receiver.cpu_times(), time.process_time(), time.monotonic()
    send(addresses, body, headers)
    seconds, used = time.monotonic() - started, time.process_time() - sent
    after = receiver.cpu_times()
    arrived = len(endpoints.take())
    assert arrived == number, f"{arrived} of {number} arrived"
    received = after.user + after.system - before.user - before.system
    return Run(number / seconds, used / number * 1e6, received / number * 1e6)


def request(content: str, format_: str) -> tuple[bytes, list[str]]:
    """Make the bytes that this software would send: a body, and the lines of its head."""
    facts = message.Facts(
        event_id=str(uuid.uuid4()),
        topic="dataset/create",
        entity_id="bench",
        entity=content,
        occurred_at=datetime.datetime.now(datetime.timezone.utc),
        sequence=1,
        site_url="http://127.0.0.1:5000",
        address="http://127.0.0.1:5000/good/1",
        webhook_id=str(uuid.uuid4()),
        user_id=str(uuid.uuid4()),
        dataset=None,
        changed=None,
    )
    body = message.compose(facts, format_)
    signed = signing.headers(facts.event_id, int(time.time()), body, [encryption.new_secret()])
    lines = {**message.headers(format_, {}), **signed}
    return body, [f"{name}: {value}" for name, value in lines.items()]


def send(addresses: Sequence[str], body: bytes, headers: Sequence[str]) -> None:
    """POST to each address once, with :data:`IN_FLIGHT` under way."""
    multi = pycurl.CurlMulti()
    idle = [_handle(body, headers) for _ in range(IN_FLIGHT)]
    waiting = list(reversed(addresses))
    under_way = 0
    while waiting or under_way:
        while idle and waiting:
            handle = idle.pop()
            handle.setopt(pycurl.URL, waiting.pop())
            multi.add_handle(handle)
            under_way += 1
        multi.perform()
        more = True
        while more:
            queued, succeeded, failed = multi.info_read()
            assert not failed, failed[0][2]
            for handle in succeeded:
                multi.remove_handle(handle)
            idle += succeeded
            under_way -= len(succeeded)
            more = queued > 0
        if under_way and not (idle and waiting):
            multi.select(1.0)
    multi.close()


def _handle(body: bytes, headers: Sequence[str]) -> pycurl.Curl:
    handle = pycurl.Curl()
    handle.setopt(pycurl.POSTFIELDS, body)
    # libcurl would ask first whether a large body is wanted.
    handle.setopt(pycurl.HTTPHEADER, [*headers, "Expect:"])
    handle.setopt(pycurl.WRITEFUNCTION, len)
    return handle
