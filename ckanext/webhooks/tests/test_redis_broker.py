"""Each URL that redis-py or Celery takes serves the worker, the nudge and ``doctor``."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from celery.contrib.testing.worker import start_worker
from ckan.tests import factories

from .. import config, consuming, nudged, queue, redis_broker, tasks  # noqa: F401  (see test_queue)
from ..doctor import Level, running
from .callers import create
from .deliver.hostile import Authority
from .relay import relay


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:1/2?socket_timeout=1&health_check_interval=3&foo=bar", "redis://h:1/2"),
        ("redis://h?db=3", "redis://h:6379/3"),
        ("redis://", "redis://localhost:6379/0"),
        ("redis://:p%40%2Fw@[::1]:1/", "redis://:p%40%2Fw@[::1]:1/0"),
        ("redis://me:pw@h/1", "redis://me:pw@h:6379/1"),
        ("unix:///run/redis.sock?db=2", "redis+socket:///run/redis.sock?virtual_host=2"),
        ("unix://me:pw@/r.sock", "redis+socket://me:pw@/r.sock?virtual_host=0"),
        ("redis+socket:///r.sock?virtual_host=4", "redis+socket:///r.sock?virtual_host=4"),
    ],
)
def test_celery_is_told_what_redis_py_reads(url, said):
    assert redis_broker.is_redis(url)
    assert redis_broker.celery_settings(url) == {"broker_url": said, "broker_use_ssl": None}


@pytest.mark.parametrize(
    ("query", "wanted", "is_named"),
    [
        ("", "required", True),
        ("?ssl_cert_reqs=required", "required", True),
        ("?ssl_cert_reqs=CERT_REQUIRED", "required", True),
        ("?ssl_check_hostname=false", "required", False),
        ("?ssl_cert_reqs=none", "none", False),
        ("?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=true", "none", False),
    ],
)
def test_a_certificate_is_verified_unless_the_url_says_otherwise(query, wanted, is_named):
    settings = redis_broker.celery_settings(f"rediss://h/1{query}")
    assert settings == {
        "broker_url": "rediss://h:6379/1",
        "broker_use_ssl": {"ssl_cert_reqs": wanted, "ssl_check_hostname": is_named},
    }


@pytest.mark.parametrize(
    "url",
    ["redis://h:port/0", "redis://h/0?db=one", "unix://", "foo://h", "localhost:6379", "http"],
)
def test_what_is_no_url_of_a_broker_is_named_and_ckan_s_redis_counts(url, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.broker_url", url)
    (mistake,) = config.mistakes()
    assert "ckanext.webhooks.broker_url" in mistake
    assert config.broker_url() == ckan_config["ckan.redis.url"]


@pytest.mark.parametrize(
    "url", ["amqp://h//;amqp://g//", "sentinel://h:1;sentinel://g:1", "sqs://"]
)
def test_what_else_celery_takes_is_taken_as_it_is(url, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.broker_url", url)
    assert list(config.mistakes()) == []
    assert config.broker_url() == url


@pytest.fixture
def configured(webhooks_db, ckan_config, monkeypatch):
    """Have the broker be another, until the end of the test."""
    monkeypatch.setattr(queue, "_quiet_until", 0.0)

    def configure(url: str) -> None:
        monkeypatch.setitem(ckan_config, "ckanext.webhooks.broker_url", url)
        queue.configure()

    yield configure
    monkeypatch.undo()
    queue.configure()


@pytest.fixture
def own(configured) -> tuple[str, int]:
    parts = urlsplit(config.broker_url())
    return parts.hostname or "localhost", parts.port or 6379


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def redis_of_its_own(tmp_path: Path) -> Iterator[redis.Redis]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port) as client:
            until(lambda: answers(client))
            yield client
    finally:
        process.kill()
        process.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def ticking() -> Iterator[None]:
    """What works by the tables in a worker, beside what takes nudges."""
    thread = threading.Thread(target=tasks.tick)
    thread.start()
    try:
        yield
    finally:
        tasks.stopping.set()
        thread.join()
        tasks.stopping.clear()


def test_a_worker_outlives_a_redis_that_may_not_be_written_to(
    redis_of_its_own, configured, receiver, ticking, monkeypatch, caplog
):
    port = redis_of_its_own.connection_pool.connection_kwargs["port"]
    configured(f"redis://127.0.0.1:{port}/0")
    monkeypatch.setattr(consuming, "_PAUSE", 0.5)
    monkeypatch.setitem(queue.app.conf, "worker_consumer", consuming.__name__ + ":Persistent")
    worked = threading.Event()
    monkeypatch.setattr(tasks, "work_once", worked.set)
    with start_worker(queue.app, pool="solo", perform_ping_check=False):
        redis_of_its_own.config_set("min-replicas-to-write", 3)
        redis_of_its_own.client_kill_filter(_type="normal", skipme=True)
        until(lambda: "the worker goes on by the tables" in caplog.text)
        until(lambda: "NOREPLICAS" in caplog.text)
        create(factories.User(), topic="dataset/create", address=receiver.url)
        dataset = factories.Dataset()
        until(lambda: receiver.requests)
        assert receiver.requests[0].json["entity"]["id"] == dataset["id"]
        assert not worked.is_set(), "no nudge came"
        redis_of_its_own.config_set("min-replicas-to-write", 0)
        monkeypatch.setattr(queue, "_quiet_until", 0.0)  # half a minute later
        queue.nudge()
        assert worked.wait(60), "it takes nudges again"


def serves(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = threading.Event()
    monkeypatch.setattr(tasks, "work_once", worked.set)
    with start_worker(queue.app, pool="solo", perform_ping_check=False):
        queue.nudge()
        assert queue._quiet_until == 0.0
        assert worked.wait(10), "the worker takes it"
        (finding,) = running.check_broker()
        assert finding.level is Level.GOOD


@pytest.mark.parametrize("query", ["?socket_timeout=1", "?db=1", "?retry_on_timeout=yes&timeout=2"])
def test_options_of_redis_py_do_no_harm(query, configured, own, monkeypatch):
    configured(f"redis://{own[0]}:{own[1]}{query}")
    serves(monkeypatch)


def test_a_unix_socket_serves(configured, own, tmp_path, monkeypatch):
    path = tmp_path / "r.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    with relay(listening, own):
        configured(f"unix://{path}?db=1")
        serves(monkeypatch)


@pytest.fixture
def over_tls(configured, own, authority: Authority) -> Iterator[str]:
    context = authority.context("localhost")
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with relay(listening, own, lambda plain: context.wrap_socket(plain, server_side=True)):
        yield f"rediss://localhost:{port}/1"


def test_over_tls_a_certificate_of_a_known_authority_serves(
    over_tls, configured, authority, monkeypatch
):
    configured(f"{over_tls}?ssl_ca_certs={authority.bundle}")
    serves(monkeypatch)


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_over_tls_another_certificate_is_refused(name, over_tls, configured, authority):
    """Of an unknown authority, or for another name."""
    bundle = "" if name == "localhost" else f"?ssl_ca_certs={authority.bundle}"
    configured(over_tls.replace("localhost", name) + bundle)
    queue.nudge()
    assert queue._quiet_until > 0
    (finding,) = running.check_broker()
    assert finding.level is Level.ODD
    assert "certificate" in finding.what.lower()
