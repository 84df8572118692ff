"""What figures were measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import pycurl
import redis
import sqlalchemy as sa

from bench.stand import Stand, execute
from ckanext.webhooks import config
from ckanext.webhooks.deliver import engine_name
from ckanext.webhooks.version import __version__


def read(stand: Stand) -> dict[str, str]:
    """Give versions and settings, by name."""
    with redis.Redis.from_url(stand.site.redis_url) as connection:
        redis_version = connection.info("server")["redis_version"]
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "ckanext-webhooks": __version__,
        "CKAN": version("ckan"),
        "Python": platform.python_version(),
        "PostgreSQL": f"{_shown('server_version').split()[0]}, fsync {_shown('fsync')},"
        f" synchronous_commit {_shown('synchronous_commit')},"
        f" shared_buffers {_shown('shared_buffers')}",
        "Redis": redis_version,
        "libcurl": pycurl.version_info()[1],
        "Celery": f"{version('celery')}, kombu {version('kombu')}",
        "requests": version("requests"),
        "worker": f"one process, engine {engine_name()}, max_in_flight"
        f" {config.max_in_flight() or 'as the engine has it'}, max_in_flight_per_webhook"
        f" {config.max_in_flight_per_webhook()}, timeout {config.timeout():g} s",
        "2015 way": "Celery prefork 2, requests.post, timeout 2 s",
    }


def _shown(setting: str) -> str:
    return str(execute(sa.text(f"SHOW {setting}"))[0][0])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
