"""What the tables share."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from ...model import close_kept, connected
from ...model.base import array, in_transaction
from ..callers import execute


@pytest.mark.usefixtures("webhooks_db")
class TestArray:
    """PostgreSQL reads what was written."""

    @pytest.mark.parametrize(
        ("values", "type_"),
        [
            ([1, None, -(2**40)], "bigint"),
            ([0.25, None, 1e-7], "float"),
            (["a", None, "", "NULL", "{}", 'quo"ted', "back\\slash", "new\nline, comma"], "text"),
            ([], "text"),
        ],
    )
    def test_of_numbers_and_texts(self, values, type_):
        [row] = execute(f"SELECT CAST(:values AS {type_}[]) AS found", values=array(values))
        assert row.found == values

    def test_what_it_cannot_hold_is_replaced(self):
        values = array(["a\0b", "\udcff", "c"])
        [row] = execute("SELECT CAST(:values AS text[]) AS found", values=values)
        assert row.found == ["a\ufffdb", "\ufffd", "c"]


@pytest.mark.usefixtures("webhooks_db")
class TestConnected:
    """A thread's own connection, which stays open."""

    @pytest.fixture(autouse=True)
    def _anew(self):
        close_kept()
        yield
        close_kept()

    @staticmethod
    def backend(connection) -> int:
        return connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()

    def test_it_is_used_again(self):
        with connected() as connection:
            first = self.backend(connection)
        with connected() as connection:
            assert self.backend(connection) == first

    def test_each_statement_is_a_transaction(self):
        with connected() as connection:
            number = sa.text("SELECT txid_current()")
            assert (
                connection.execute(number).scalar_one() != connection.execute(number).scalar_one()
            )

    def test_several_can_be_one_which_is_undone_where_one_fails(self):
        with (
            pytest.raises(RuntimeError),
            connected() as connection,
            in_transaction(
                connection,
                sa.text("BEGIN; SET LOCAL lock_timeout = 77; SELECT :given"),
                {"given": "a row"},
            ) as rows,
        ):
            assert rows == [("a row",)]
            assert connection.execute(sa.text("SHOW lock_timeout")).scalar_one() == "77ms"
            connection.execute(
                sa.text("INSERT INTO webhooks_served (user_id, labels) VALUES ('u', '[]')")
            )
            raise RuntimeError
        assert execute("SELECT FROM webhooks_served WHERE user_id = 'u'") == []

    def test_the_last_of_several_may_end_it(self):
        with connected() as connection, in_transaction(connection, sa.text("BEGIN; SELECT 1")):
            ending = "INSERT INTO webhooks_served (user_id, labels) VALUES ('u', '[]'); COMMIT"
            connection.execute(sa.text(ending))
            driver = connection.connection.dbapi_connection
            del driver.notices[:]
        assert driver.notices == [], "it is not ended twice"
        assert len(execute("SELECT FROM webhooks_served WHERE user_id = 'u'")) == 1

    def test_one_that_broke_is_replaced(self):
        with connected() as connection:
            first = self.backend(connection)
        execute("SELECT pg_terminate_backend(:pid)", pid=first)
        with pytest.raises(sa.exc.OperationalError), connected() as connection:
            self.backend(connection)
        with connected() as connection:
            assert self.backend(connection) != first

    def test_one_that_was_idle_is_asked_first(self, monkeypatch):
        with connected() as connection:
            first = self.backend(connection)
        execute("SELECT pg_terminate_backend(:pid)", pid=first)
        monkeypatch.setattr("ckanext.webhooks.model.base._TRUSTED_FOR", 0.0)
        with connected() as connection:
            assert self.backend(connection) != first
