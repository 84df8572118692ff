"""A RabbitMQ of a test's own, on free ports of 127.0.0.1, with all it writes in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path
from types import TracebackType

import kombu

from .site import Process, SiteError, free_port

# Debian's command of that name changes the user, and this one does not.
_SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
# Of it only what a broker needs: memory is for CKAN, and so is the processor, on which Erlang
# would spin while it waits.
_ERLANG = (
    "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
)
# Whatever else is called so is a plugin. It looks through all as it starts, which takes a fifth of
# that, and uses none.
_PRELAUNCH = "rabbitmq_prelaunch"
_CONFIGURATION = """
listeners.tcp.local = 127.0.0.1:{port}
default_user = webhooks
default_pass = {password}
log.console = true
log.console.level = warning
log.file = false
disk_free_limit.absolute = 10MB
"""


class RabbitMQ:
    """``with RabbitMQ(folder) as rabbitmq:`` runs until the end.

    :param folder: for its database; made, and removed at the end
    :ivar url: as Celery's broker URL
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._port = free_port()
        self._password = secrets.token_hex(16)
        self.url = f"amqp://webhooks:{self._password}@127.0.0.1:{self._port}//"
        self._process: Process | None = None

    def __enter__(self) -> RabbitMQ:
        if not _SERVER.exists():
            raise SiteError(f"{_SERVER} is missing; bin/test installs rabbitmq-server")
        self.folder.mkdir(parents=True)
        (self.folder / "rabbitmq.conf").write_text(
            _CONFIGURATION.format(port=self._port, password=self._password)
        )
        self._take_what_is_used()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        shutil.rmtree(self.folder)

    def _take_what_is_used(self) -> None:
        """Have a folder of links to what the broker is made of, without its plugins."""
        (self.folder / "plugins").mkdir()
        for part in (_SERVER.resolve().parents[1] / "plugins").iterdir():
            if part.name.startswith(_PRELAUNCH) or not part.name.startswith("rabbitmq_"):
                (self.folder / "plugins" / part.name).symlink_to(part)

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Start it; it takes connections some seconds later, see :meth:`wait`."""
        self._process = Process("rabbitmq", [str(_SERVER)], self.folder, self._environment())

    def wait(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + 120
        while not self._answers():
            if not self.process.alive or time.monotonic() > deadline:
                raise self.process.error("did not start")
            time.sleep(0.1)

    def stop(self) -> None:
        """Kill it: what it has confirmed is on disk."""
        self.process.kill()

    def waiting(self, queue: str) -> int:
        """Give how many messages of a queue wait for a worker."""
        with kombu.Connection(self.url) as connection:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)

    def _answers(self) -> bool:
        try:
            with kombu.Connection(self.url, connect_timeout=2) as connection:
                connection.ensure_connection(max_retries=0)
        except Exception:  # refused, or it is still about to make its user
            return False
        return True

    def _environment(self) -> dict[str, str]:
        ours = {
            "HOME": str(self.folder),  # for Erlang's cookie
            "RABBITMQ_NODENAME": f"webhooks-{self._port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "no-plugins"),
            "RABBITMQ_PLUGINS_DIR": str(self.folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            # Erlang starts a name server of its own beside it, which ends with it: see guard.py.
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        }
        others = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        return {**others, **ours}
