"""What PostgreSQL refuses for what it was given, and what for the moment."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from ckan import model

from ...model.base import is_of_the_data

pytestmark = pytest.mark.usefixtures("webhooks_db")

DATA = {
    "text with NUL": ("SELECT CAST(:value AS text)", "\x00"),
    "text with a lone surrogate": ("SELECT CAST(:value AS text)", "\udcff"),
    "what the driver does not know": ("SELECT :value", object()),
    "no JSON": ("SELECT CAST(:value AS jsonb)", "{"),
    "a number too large": ("SELECT CAST(:value AS int)", "9" * 400),
    "NULL where there is to be something": ("INSERT INTO webhooks (id) VALUES (:value)", "a"),
}
MOMENT = {
    "a table that is missing": "SELECT * FROM none_such",
    "a statement that was cut off": "SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)",
    "a lock that was not had": "SET LOCAL lock_timeout = 1; SELECT 1 FROM webhooks",
    "a connection that was closed": "SELECT pg_terminate_backend(pg_backend_pid())",
}


def error_of(statement: str, **values: object) -> BaseException:
    with pytest.raises(Exception) as error, model.meta.engine.begin() as connection:
        connection.execute(sa.text(statement), values)
    return error.value


@pytest.mark.parametrize(("statement", "value"), DATA.values(), ids=DATA)
def test_of_the_data_is(statement, value):
    assert is_of_the_data(error_of(statement, value=value))


@pytest.mark.parametrize("statement", MOMENT.values(), ids=MOMENT)
def test_of_the_moment_is(statement):
    with model.meta.engine.begin() as other:
        if "lock_timeout" in statement:
            other.execute(sa.text("LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE"))
        assert not is_of_the_data(error_of(statement))
