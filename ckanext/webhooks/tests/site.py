"""A running CKAN: what bin/up and bin/demo show, and what the acceptance tests use.

::

    with Site(Path(".dev/run/example")) as site:
        site.start_web()
        site.start_worker()
        ckanapi.RemoteCKAN(site.url, apikey=site.token).action.status_show()

PostgreSQL, Solr and Redis are those of CKAN_SQLALCHEMY_URL, CKAN_SOLR_URL and
CKAN_REDIS_URL. The site makes a database of its own there, and shares the Solr
core under a ``ckan.site_id`` of its own. Whichever way the program that holds
the site ends, every process of the site ends with it (see guard.py).
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import os
import random
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from . import databases

GUARD = Path(__file__).with_name("guard.py")
# Of Celery, when a worker takes messages.
READY = " ready."
# What the sysadmin's token is called in the database.
TOKEN = "site"

LOGGING = """
[loggers]
keys = root, ckan, ckanext, werkzeug

[handlers]
keys = console

[formatters]
keys = generic

[logger_root]
level = WARNING
handlers = console

[logger_werkzeug]
level = WARNING
handlers = console
qualname = werkzeug
propagate = 0

[logger_ckan]
level = INFO
handlers = console
qualname = ckan
propagate = 0

[logger_ckanext]
level = DEBUG
handlers = console
qualname = ckanext
propagate = 0

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic

[formatter_generic]
format = %(asctime)s %(levelname)-5.5s [%(name)s] %(message)s
"""

WSGI = """\
import os
from logging.config import fileConfig

from ckan.cli import CKANConfigLoader
from ckan.config.middleware import make_app

ini = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ckan.ini")
fileConfig(ini, disable_existing_loggers=False)
ckan = make_app(CKANConfigLoader(ini).get_config())


def application(environ, start_response):
    # CKAN, behind what portals have a proxy do: browsers keep its scripts, styles and pictures.
    if not environ["PATH_INFO"].startswith(("/webassets/", "/base/")):
        return ckan(environ, start_response)

    def start(status, headers, exc_info=None):
        kept = [header for header in headers if header[0] not in ("Cache-Control", "Vary")]
        return start_response(status, [*kept, ("Cache-Control", "max-age=3600")], exc_info)

    return ckan(environ, start)
"""

# gunicorn reads it where it is started. To load CKAN takes some 4 s of a core: once is enough.
GUNICORN = """\
preload_app = True


def post_fork(server, worker):
    # The connections that CKAN opened as it was loaded are the master's.
    from ckan import model

    model.Session.remove()
    model.meta.engine.dispose(close=False)
"""


class Guard(Protocol):
    """What runs one command, and leaves nothing of it behind: see guard.py.

    :ivar stdin: the command is killed when this is closed
    :ivar stdout: says the command's pid first, and nothing where it could not be started
    """

    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


def start_own_guard(
    command: list[str], folder: Path, env: Mapping[str, str], log: IO[bytes]
) -> Guard:
    return subprocess.Popen(
        [sys.executable, "-I", str(GUARD), *command],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )


# Tests put another here, which has imported CKAN already.
start_guard: Callable[[list[str], Path, Mapping[str, str], IO[bytes]], Guard] = start_own_guard


class SiteError(Exception):
    """The site, or a part of it, does not run; the message says what to do."""


class Process:
    """A process of the site, in a session and a process group of its own.

    :ivar name: what it is, and the name of its log
    :ivar log: the file with what it prints
    :ivar pid: its process id; a prefork server's master
    """

    def __init__(self, name: str, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.command = command
        self.log = folder / f"{name}.log"
        with open(self.log, "ab") as log:
            self._from = log.tell()  # what is before it is of an earlier process
            self._guard = start_guard(command, folder, env, log)
        assert self._guard.stdout is not None
        first = self._guard.stdout.readline()
        if not first:
            self._release()
            raise self.error("could not be started")
        self.pid = int(first)

    @property
    def alive(self) -> bool:
        return self._guard.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        :returns: the exit code, 128 + the signal's number if one ended it
        :raises subprocess.TimeoutExpired: it still runs
        """
        return self._guard.wait(timeout)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its children; none if it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and everything that it started, as ``kill -9`` and at once."""
        self.signal(signal.SIGKILL)
        self._release()

    def stop(self, timeout: float = 10.0) -> None:
        """Ask it to end, and end it if it hasn't in so many seconds."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            self.thaw()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._guard.wait(timeout)
        self._release()

    def _release(self) -> None:
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdin.close()
        self._guard.wait()
        self._guard.stdout.close()

    def output(self) -> str:
        """What it has printed so far."""
        with open(self.log, "rb") as log:
            log.seek(self._from)
            return log.read().decode(errors="replace")

    def await_output(self, text: str, timeout: float = 120.0) -> None:
        """Wait until it has printed something.

        :raises SiteError: it has not in so many seconds, or has ended
        """
        deadline = time.monotonic() + timeout
        while text not in self.output():
            if time.monotonic() > deadline or not self.alive:
                raise self.error(f"did not say {text!r}")
            time.sleep(0.05)

    def error(self, what: str) -> SiteError:
        """An exception that shows the end of the log."""
        shown = "\n".join(f"    | {line}" for line in self.output().splitlines()[-25:])
        return SiteError(f"{self.name} {what}. The end of {self.log}:\n{shown}")


class Site:
    """One CKAN in one folder, with its database, web process and workers.

    :param folder: for ckan.ini, uploads and logs; made if it is missing
    :param options: lines of ckan.ini to add or to replace
    :param plugins: ``ckan.plugins``
    :param python: the Python whose environment holds CKAN
    :param own_redis: start a Redis for this site, to be stopped and frozen
    :param database: name of the database. One with a given name is kept when the
        site closes, and used again; otherwise it is a new one that is dropped
    :param sqlalchemy_url: of any database on the server to use
    :ivar url: where the site answers once ``start_web`` has returned
    :ivar ini: the path of ckan.ini
    :ivar token: an API token of the sysadmin ``admin``
    :ivar database_url: of the site's database
    :ivar redis_url: of its Redis
    :ivar web: the web process, if it was started
    :ivar workers: the workers that were started
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: Mapping[str, str] | None = None,
        plugins: str = "activity webhooks",
        python: str = sys.executable,
        own_redis: bool = False,
        database: str | None = None,
        sqlalchemy_url: str | None = None,
        solr_url: str | None = None,
        redis_url: str | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.options = dict(options or {})
        self.plugins = plugins
        self.python = python
        self.web: Process | None = None
        self.workers: list[Process] = []
        self.token = ""
        self.redis: Process | None = None
        self._own_redis = own_redis
        self._keep_database = database is not None
        self._server_url = sqlalchemy_url or _from_environment("CKAN_SQLALCHEMY_URL")
        self.name = database or f"site_{secrets.token_hex(6)}"
        self.database_url = databases.with_name(self._server_url, self.name)
        self.solr_url = solr_url or _from_environment("CKAN_SOLR_URL")
        self._redis_port = free_port() if own_redis else 0
        self.redis_url = (
            f"redis://127.0.0.1:{self._redis_port}/0"
            if own_redis
            else redis_url or _from_environment("CKAN_REDIS_URL")
        )
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.ini = self.folder / "ckan.ini"

    def __enter__(self) -> Site:
        try:
            self.prepare()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(self) -> None:
        """Make all that a web process and a worker need, and start the site's own Redis."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._own_redis:
            self.start_redis()
        self.write_ini()
        try:
            self._prepare_database()
        except databases.DatabaseError as error:
            raise SiteError(str(error)) from None
        self.token = self._sign_token()

    def _prepare_database(self) -> None:
        """Copy the template of this environment's CKAN, unless the database is there already."""
        if self.python != sys.executable or databases.exists(self.database_url):
            databases.create(self.database_url)
            self._migrate(self.database_url)
        else:
            template = databases.template(self.database_url, self.plugins, self._migrate)
            databases.copy(self.database_url, template)

    def _migrate(self, url: str) -> None:
        """Bring a database to the newest schema of this site's CKAN, with a sysadmin in it."""
        self.run(
            [self.python, "-m", __spec__.name, "prepare", str(self.ini)],
            log="prepare",
            env={"CKAN_SQLALCHEMY_URL": url},
        )

    def _sign_token(self) -> str:
        """Sign the token that the database has, as CKAN does, with this site's secret."""
        import jwt
        import psycopg2  # neither is needed by those who only start something

        with (
            contextlib.closing(psycopg2.connect(self.database_url)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT id FROM api_token WHERE name = %s", [TOKEN])
            ((id_,),) = cursor.fetchall()
        payload = {"jti": id_, "iat": int(time.time())}
        return str(jwt.encode(payload, self._secret(), algorithm="HS256"))

    def write_ini(self) -> None:
        """Write ckan.ini whole, from :attr:`options` as they are now."""
        parser = configparser.RawConfigParser()
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser["DEFAULT"] = {"debug": "false"}
        parser["app:main"] = {
            key: value.replace("%", "%%") for key, value in self._settings().items()
        }
        with open(self.ini, "w", opener=for_us_alone) as ini:
            parser.write(ini)
            ini.write(LOGGING)
        (self.folder / "wsgi.py").write_text(WSGI)
        (self.folder / "gunicorn.conf.py").write_text(GUNICORN)

    def _settings(self) -> dict[str, str]:
        secret = self._secret()
        return {
            "SECRET_KEY": secret,
            # 2.10 and 2.11 read these
            "beaker.session.key": "ckan",
            "beaker.session.secret": secret,
            "beaker.session.validate_key": secret,
            "beaker.session.data_dir": str(self.folder / "sessions"),
            "WTF_CSRF_SECRET_KEY": secret,
            "api_token.jwt.encode.secret": f"string:{secret}",
            "api_token.jwt.decode.secret": f"string:{secret}",
            "sqlalchemy.url": self.database_url,
            "solr_url": self.solr_url,
            "ckan.redis.url": self.redis_url,
            "ckan.site_id": self.name,
            "ckan.site_url": self.url,
            "ckan.plugins": self.plugins,
            "ckan.storage_path": str(self.folder / "storage"),
            "ckan.gravatar_default": "disabled",  # no pictures from the network
            # Receivers of a demonstration or a test are on this machine.
            "ckanext.webhooks.allowed_networks": "127.0.0.0/8 ::1/128",
            **self.options,
        }

    def _secret(self) -> str:
        """One that stays, so that tokens outlive a restart."""
        path = self.folder / "secret"
        if not path.exists():
            with open(path, "w", opener=for_us_alone) as file:
                file.write(secrets.token_hex(32))
        return path.read_text()

    # --- processes

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """What the site's processes get.

        CKAN prefers CKAN_… variables over ckan.ini, and those that this program
        has are about another site.
        """
        ours = {k: v for k, v in os.environ.items() if not k.startswith("CKAN_")}
        return {**ours, "CKAN_INI": str(self.ini), "PYTHONUNBUFFERED": "1", **(env or {})}

    def run(
        self,
        command: list[str],
        *,
        log: str = "commands",
        env: Mapping[str, str] | None = None,
        timeout: float = 180.0,
    ) -> str:
        """Run a command to its end.

        :returns: what it printed
        :raises SiteError: it failed, with the end of what it printed
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        process = Process(log, command, self.folder, self.environment(env))
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise process.error(f"took longer than {timeout:g} s: {shlex.join(command)}") from None
        finally:
            process.kill()
        if code != 0:
            raise process.error(f"failed with exit code {code}: {shlex.join(command)}")
        return process.output()

    def ckan(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Run ``ckan ARGUMENTS`` on this site.

        :returns: what it printed, its log included
        :raises SiteError: it failed
        """
        return self.run([self._script("ckan"), "-c", str(self.ini), *arguments], env=env)

    def start_web(
        self,
        server: str = "ckan",
        workers: int = 2,
        env: Mapping[str, str] | None = None,
        timeout: float = 90.0,
        threads: int = 1,
    ) -> Process:
        """Start the web process and wait until the API answers.

        :param server: ``ckan`` (CKAN's own, one process with threads), ``gunicorn``
            or ``uwsgi`` (prefork)
        :param workers: processes of gunicorn and uwsgi
        :param threads: of each process of gunicorn
        """
        if self.web is not None:
            self.web.stop()
        process = self.web = self._start("web", self._web_command(server, workers, threads), env)
        deadline = time.monotonic() + timeout
        while not self._answers():
            if not process.alive:
                raise process.error("ended before it answered")
            if time.monotonic() > deadline:
                process.kill()
                raise process.error(f"did not answer within {timeout:g} s")
            time.sleep(0.1)
        return process

    def stop_web(self, timeout: float = 10.0) -> None:
        if self.web is not None:
            self.web.stop(timeout)
            self.web = None

    def _web_command(self, server: str, workers: int, threads: int) -> list[str]:
        address = f"127.0.0.1:{self.port}"
        if server == "ckan":
            command = ["ckan", "-c", str(self.ini), "run", "-H", "127.0.0.1", "-p", str(self.port)]
            command += ["--disable-reloader"]
        elif server == "gunicorn":
            command = ["gunicorn", "--workers", str(workers), "--bind", address]
            command += ["--threads", str(threads)]
            command += ["--no-control-socket", "--timeout", "60", "--graceful-timeout", "5"]
            command += ["wsgi:application"]
        elif server == "uwsgi":
            command = ["uwsgi", "--http-socket", address, "--master", "--processes", str(workers)]
            command += ["--wsgi-file", str(self.folder / "wsgi.py"), "--need-app", "--die-on-term"]
            command += ["--buffer-size", "32768", "--disable-logging"]
            # It closes after each answer, and clients must hear of it.
            command += ["--add-header", "Connection: close"]
        else:
            raise ValueError(f"server is ckan, gunicorn or uwsgi, not {server}")
        return [self._script(command[0]), *command[1:]]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"{self.url}/api/3/action/status_show", timeout=30
            ) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def start_worker(self, env: Mapping[str, str] | None = None) -> Process:
        """Start ``ckan webhooks worker``; several may run."""
        process = self._start(
            f"worker-{len(self.workers) + 1}",
            [self._script("ckan"), "-c", str(self.ini), "webhooks", "worker"],
            env,
        )
        self.workers.append(process)
        return process

    def stop_workers(self, timeout: float = 15.0) -> None:
        for process in self.workers:
            process.stop(timeout)
        self.workers.clear()

    def start_redis(self) -> None:
        """Start the site's own Redis, empty."""
        if self.redis is not None:
            self.redis.stop()
        self.redis = self._start(
            "redis",
            ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1"]
            + ["--save", "", "--appendonly", "no", "--dir", str(self.folder)],
            None,
        )
        deadline = time.monotonic() + 10
        while not _accepts(self._redis_port):
            if not self.redis.alive or time.monotonic() > deadline:
                raise self.redis.error("did not start; is the package redis-server installed?")
            time.sleep(0.02)

    def stop_redis(self) -> None:
        """Stop it: connections are refused."""
        self._redis().stop()

    def freeze_redis(self) -> None:
        """Halt it: connections are accepted, and nothing is ever answered."""
        self._redis().freeze()

    def thaw_redis(self) -> None:
        self._redis().thaw()

    def _redis(self) -> Process:
        if self.redis is None:
            raise SiteError("this site has no Redis of its own; make it with own_redis=True")
        return self.redis

    def _start(self, name: str, command: list[str], env: Mapping[str, str] | None) -> Process:
        self.folder.mkdir(parents=True, exist_ok=True)
        return Process(name, command, self.folder, self.environment(env))

    def _script(self, name: str) -> str:
        """A command beside the Python of the site's environment."""
        path = Path(self.python).parent / name
        if not path.exists():
            raise SiteError(f"{path} is missing; bin/test makes an environment that has it")
        return str(path)

    def close(self) -> None:
        """End every process, and drop the database if it was made for this site alone."""
        self.stop_workers()
        self.stop_web()
        if self.redis is not None:
            self.redis.kill()
            self.redis = None
        if not self._keep_database:
            databases.drop(self.database_url)


# --- small things


def free_port() -> int:
    """A port that nobody listens on.

    Below the range from which the kernel takes the near end of connections, or a
    server that is stopped and started again could find its port lent out.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _from_environment(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise SiteError(
            f"{name} is not set. Run this by bin/test, bin/demo or bin/up, or set it."
        ) from None


def for_us_alone(path: str, flags: int) -> int:
    """Open a file that nobody else may read: an ``opener``."""
    return os.open(path, flags, 0o600)


# --- commands, for the scripts in bin/ and for a site's own first step


def migrate(ini: str) -> Any:
    """Bring the database of a ckan.ini to its newest schema, in one process.

    :returns: CKAN's Flask application
    """
    from ckan.cli import load_config
    from ckan.cli.db import db
    from ckan.config.middleware import make_app

    app = make_app(load_config(ini))._wsgi_app
    with app.test_request_context():
        db.main(["init"], standalone_mode=False)
        # 2.10 leaves plugins out of init, and all but 2.12 leave activity's behind
        db.main(["pending-migrations", "--apply"], standalone_mode=False)
    return app


def prepare(ini: str) -> None:
    """Migrate, and make the sysadmin ``admin`` and a token where there is none."""
    app = migrate(ini)
    from ckan import model
    from ckan.plugins.toolkit import get_action

    with app.test_request_context():
        context: dict[str, Any] = {"ignore_auth": True}
        if model.User.get("admin") is None:
            account = {"name": "admin", "email": "admin@localhost.example"}
            get_action("user_create")(dict(context), {**account, "password": secrets.token_hex(16)})
        user = model.User.get("admin")
        assert user is not None
        user.sysadmin = True
        model.Session.commit()
        if model.Session.query(model.ApiToken).filter_by(name=TOKEN).first() is None:
            data = {"user": "admin", "name": TOKEN}
            get_action("api_token_create")({**context, "user": "admin"}, data)


def make_database(url: str, plugins: str) -> None:
    """Make a database anew that is migrated for some plugins; others may copy it at once."""
    server = databases.with_name(url, "postgres")
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder), plugins=plugins, sqlalchemy_url=server)
        site.write_ini()
        databases.copy(url, databases.template(url, plugins, site._migrate))


def stay_up(folder: Path, written: Path) -> None:
    """Run a site for development until SIGTERM; its database is kept.

    :param written: a file in shell syntax, made when everything answers
    """

    def end(number: int, frame: Any) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    with Site(folder, database="ckan_up") as site:
        site.start_web()
        site.start_worker().await_output(READY)
        values = {
            "CKAN_URL": site.url,
            "CKAN_SYSADMIN_TOKEN": site.token,
            "CKAN_INI": str(site.ini),
            "DATABASE_URL": site.database_url,
            "REDIS_URL": site.redis_url,
        }
        new = written.with_suffix(".new")
        with open(new, "w", opener=for_us_alone) as file:
            file.writelines(f"export {k}={shlex.quote(v)}\n" for k, v in values.items())
        new.rename(written)
        while True:
            time.sleep(1)
            for process in [site.web, *site.workers]:
                if process is not None and not process.alive:
                    raise process.error("ended by itself")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    def command(name: str, function: Callable[..., object], **arguments: type) -> None:
        one = commands.add_parser(name)
        one.set_defaults(function=function)
        for argument, kind in arguments.items():
            one.add_argument(argument, type=kind)

    command("make-database", make_database, url=str, plugins=str)
    command("drop-leftovers", databases.drop_leftovers, url=str)
    command("prepare", prepare, ini=str)
    command("up", stay_up, folder=Path, written=Path)
    values = vars(parser.parse_args())
    try:
        values.pop("function")(**values)
    except (SiteError, databases.DatabaseError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
