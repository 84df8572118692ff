"""Databases of sites and of tests: each its own, copied from one that is migrated already.

To migrate a database takes CKAN some ten seconds of a core, to copy one PostgreSQL takes a
tenth of a second. So the first that needs a database migrates a template on that server, and
whoever comes after it copies. A template's name says what it was made from, so another CKAN,
another set of plugins or a changed migration makes another.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

PACKAGE = Path(__file__).parents[1]
# Of an advisory lock, so that two do not make one template at once; any number will do.
TEMPLATE_LOCK = 20151130

Execute = Callable[[str, list[Any] | None], list[Any]]


class DatabaseError(Exception):
    """The server does not do what is asked; the message says what to do."""


def exists(url: str) -> bool:
    with _server(url) as execute:
        return _exists(execute, name_of(url))


def create(url: str) -> None:
    """Make an empty database if its server does not have it yet."""
    with _server(url) as execute:
        if not _exists(execute, name_of(url)):
            _create(execute, name_of(url))


def copy(url: str, template: str) -> None:
    """Make a database anew, as a copy of another on its server that nobody is connected to.

    :param template: the other's name
    """
    with _server(url) as execute:
        execute(f'DROP DATABASE IF EXISTS "{name_of(url)}" WITH (FORCE)', None)
        execute(f'CREATE DATABASE "{name_of(url)}" TEMPLATE "{template}"', None)


def drop(url: str) -> None:
    """Drop the database, whoever is connected to it; nothing if the server is gone."""
    with contextlib.suppress(DatabaseError), _server(url) as execute:
        execute(f'DROP DATABASE IF EXISTS "{name_of(url)}" WITH (FORCE)', None)


def drop_leftovers(url: str) -> None:
    """Drop what sites left on this server whose program was killed."""
    with _server(url) as execute:
        for name in _names(execute, "site_"):
            execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', None)


def template(url: str, plugins: str, migrate: Callable[[str], None]) -> str:
    """Give the name of a migrated database on a server, which is made if it is missing.

    :param url: of any database on the server
    :param plugins: ``ckan.plugins``
    :param migrate: brings the database of a URL to its newest schema
    """
    family, name = _template_names(plugins)
    with _server(url) as execute:
        execute("SELECT pg_advisory_lock(%s)", [TEMPLATE_LOCK])
        if not _exists(execute, name):
            for old in _names(execute, family):
                execute(f'DROP DATABASE IF EXISTS "{old}" WITH (FORCE)', None)
            # Under another name until it is whole, or one that was broken off would be copied.
            draft = f"{family}draft_{secrets.token_hex(4)}"
            _create(execute, draft)
            migrate(with_name(url, draft))
            execute(f'ALTER DATABASE "{draft}" RENAME TO "{name}"', None)
    return name


def _template_names(plugins: str) -> tuple[str, str]:
    """Give what the names of a CKAN's templates begin with, and the name of this one."""
    made_from = hashlib.sha256(plugins.encode())
    for path in sorted((PACKAGE / "migration").rglob("*.py")):
        made_from.update(path.read_bytes())
    family = f"template_{version('ckan')}_{hashlib.sha256(plugins.encode()).hexdigest()[:6]}_"
    return family, family + made_from.hexdigest()[:12]


def name_of(url: str) -> str:
    return urlsplit(url).path.lstrip("/")


def with_name(url: str, name: str) -> str:
    """Give the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


def _exists(execute: Execute, name: str) -> bool:
    return bool(execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]))


def _create(execute: Execute, name: str) -> None:
    execute(f"CREATE DATABASE \"{name}\" ENCODING 'UTF8' TEMPLATE template0", None)


def _names(execute: Execute, beginning: str) -> list[str]:
    found = execute(
        "SELECT datname FROM pg_database WHERE starts_with(datname::text, %s)", [beginning]
    )
    return [name for (name,) in found]


@contextlib.contextmanager
def _server(url: str) -> Iterator[Execute]:
    """Yield a function that runs SQL in the server's database ``postgres``."""
    import psycopg2  # not needed by those who only start something

    try:
        connection = psycopg2.connect(with_name(url, "postgres"), connect_timeout=10)
    except psycopg2.OperationalError as error:
        raise DatabaseError(
            f"PostgreSQL cannot be reached: {error}\n"
            "Check CKAN_SQLALCHEMY_URL, or unset it and let bin/up or bin/test start one."
        ) from None
    connection.autocommit = True

    def execute(sql: str, values: list[Any] | None) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    try:
        yield execute
    except psycopg2.ProgrammingError as error:
        raise DatabaseError(
            f"{error}\nThe user in CKAN_SQLALCHEMY_URL must be allowed CREATEDB."
        ) from None
    finally:
        connection.close()
