"""Table ``webhooks_attempt``: one POST of one delivery, with what came back."""

from __future__ import annotations

import sqlalchemy as sa

from .base import Base


class Attempt(Base):
    """One POST.

    :ivar number: 1, 2, 3… of the delivery
    :ivar sent_at: the time that was signed
    :ivar duration: seconds from resolving the name to the end of the answer
    :ivar resolve, connect, tls, wait: seconds of it for each step, NULL where
        there was none: a connection that was kept is neither resolved for
        nor made; wait is from the end of the request to the answer's begin
    :ivar dialled: the address that was connected to
    :ivar http_status: of the answer, NULL where none came
    :ivar error: what went wrong on the way, NULL where an answer came. In this and the next
        what PostgreSQL's text cannot hold (NUL, lone surrogates, bytes that are not UTF-8)
        is U+FFFD
    :ivar answer: the first 4 KiB of the answer's body
    """

    __tablename__ = "webhooks_attempt"

    id = sa.Column(sa.BigInteger, sa.Identity(), primary_key=True)
    delivery_id = sa.Column(sa.BigInteger, nullable=False)
    number = sa.Column(sa.Integer, nullable=False)
    sent_at = sa.Column(sa.DateTime(timezone=True), nullable=False)
    duration = sa.Column(sa.Float, nullable=False)
    resolve = sa.Column(sa.REAL)
    connect = sa.Column(sa.REAL)
    tls = sa.Column(sa.REAL)
    wait = sa.Column(sa.REAL)
    dialled = sa.Column(sa.Text)
    http_status = sa.Column(sa.Integer)
    error = sa.Column(sa.Text)
    answer = sa.Column(sa.Text)

    __table_args__ = (sa.Index("webhooks_attempt_delivery_idx", "delivery_id", "number"),)
