"""The only reader of CKAN's configuration.

Options, defaults and their reasons are declared in config_declaration.yaml. CKAN is told of
no types: of a number that is none it would make an exception, when it starts or later. Here
each option has one reader, and what it cannot read counts as something that it can.
"""

from __future__ import annotations

import difflib
import functools
import ipaddress
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import ckan.plugins.toolkit as tk
import yaml
from kombu.transport import TRANSPORT_ALIASES

from . import encryption, logs, outbound, redis_broker

log = logs.logger(__name__)

T = TypeVar("T")

_DECLARATION = Path(__file__).with_name("config_declaration.yaml")

CONTENT = ("full", "anonymous")
ENTITY = ("full", "stub")
MINIMUM_AUTH = ("none", "editor", "admin", "sysadmin")
# A century: PostgreSQL's times end somewhere beyond.
_MOST_DAYS = 36_500
# A year, in seconds.
_LONGEST_WAIT = 31_536_000
# More than any machine has sockets for.
_MOST_IN_FLIGHT = 100_000
# What PostgreSQL takes for an integer.
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Option(Generic[T]):
    """An option that counts as something else where its value makes no sense.

    :param read: gives what a value stands for, or raises ValueError, which says what would be
        right
    :param otherwise: what a value that makes no sense counts as; as the declared default where
        this is None
    """

    name: str
    read: Callable[[Any], T]
    otherwise: str | None = None

    @property
    def key(self) -> str:
        return f"ckanext.webhooks.{self.name}"

    def value(self) -> T:
        try:
            return self.read(tk.config[self.key])
        except ValueError:
            return self.read(self._otherwise())

    def mistakes(self) -> Iterator[str]:
        try:
            self.read(tk.config[self.key])
        except ValueError as error:
            yield (
                f"{self.key} = {_written(tk.config[self.key])} is {error}: until it is, it counts"
                f" as {_written(self._otherwise())}"
            )

    def _otherwise(self) -> Any:
        return _defaults()[self.key] if self.otherwise is None else self.otherwise


@functools.cache
def _defaults() -> dict[str, Any]:
    declared = yaml.safe_load(_DECLARATION.read_text())["groups"][0]["options"]
    return {option["key"]: option["default"] for option in declared}


def minimum_auth() -> str:
    """Give the role a user needs to create webhooks."""
    return _MINIMUM_AUTH_OPTION.value()


def site_url() -> str:
    return str(tk.config["ckan.site_url"])


def site_title() -> str:
    return str(tk.config["ckan.site_title"])


def site_id() -> str:
    return str(tk.config["ckan.site_id"])


def mail_server() -> str:
    return str(tk.config.get("smtp.server") or "")


def mail_from() -> str:
    return str(tk.config.get("smtp.mail_from") or "")


def exclude_types() -> frozenset[str]:
    return frozenset(_EXCLUDE_TYPES.value())


def content() -> str:
    """Give as whom a dataset is captured: ``full`` or ``anonymous``."""
    return _CONTENT_OPTION.value()


def entity() -> str:
    """Give how much of an entity is told: ``full`` or ``stub``."""
    return _ENTITY_OPTION.value()


def allowed_networks() -> list[str]:
    """Give what may be called although not public; an entry that makes no sense allows nothing."""
    entries = _entries(tk.config["ckanext.webhooks.allowed_networks"])
    return [text for text in entries if _is_network(text) or _is_endpoint(text)]


def broker_url() -> str:
    """Give the URL of Celery's broker: an own one, or CKAN's Redis."""
    own = str(tk.config["ckanext.webhooks.broker_url"] or "").strip()
    return own if own and _is_broker(own) else str(tk.config["ckan.redis.url"])


def timeout() -> float:
    """Give the seconds that one attempt may take, from resolving to the last byte."""
    return _TIMEOUT.value()


def retry_schedule() -> list[float]:
    """Give the seconds before each try; there are as many tries as entries."""
    return _RETRY_SCHEDULE.value()


def max_in_flight() -> int:
    """Give the requests that one worker has under way, 0 for what its engine is made for."""
    return _MAX_IN_FLIGHT.value()


def max_in_flight_per_webhook() -> int:
    return _MAX_IN_FLIGHT_PER_WEBHOOK.value()


def max_in_flight_per_host() -> int:
    """Give how many of them may go to one host, 0 for half of all."""
    return _MAX_IN_FLIGHT_PER_HOST.value()


def max_in_flight_per_owner() -> int:
    """Give how many of them may be of one user's webhooks, 0 for half of all."""
    return _MAX_IN_FLIGHT_PER_OWNER.value()


def proxy() -> str | None:
    """Give the URL of the proxy that requests go through: an own one, CKAN's, or None."""
    own = _own_proxy()
    url = own or str(tk.config.get("ckan.download_proxy") or "").strip()
    if own.lower() == "none" or not url:
        return None
    # requests, which CKAN gives its option to, reads it so too.
    return url if "://" in url else f"http://{url}"


def _own_proxy() -> str:
    return str(tk.config["ckanext.webhooks.proxy"] or "").strip()


def ca_bundle() -> str | None:
    """Give the file of certificates that are trusted, None for the usual ones."""
    return str(tk.config["ckanext.webhooks.ca_bundle"]).strip() or None


def disable_after() -> float:
    """Give the seconds for which an endpoint may fail before its webhook is disabled."""
    return _DISABLE_AFTER.value() * 86400


def verify() -> bool:
    """Tell whether endpoints must show that they want to be called."""
    return _VERIFY.value()


def max_per_user() -> int:
    return _MAX_PER_USER.value()


def max_per_host() -> int:
    return _MAX_PER_HOST.value()


def loop_bound() -> int:
    """Give how many changes of one dataset in an hour are told at once."""
    return _LOOP_BOUND.value()


def loop_pause() -> float:
    """Give the seconds between changes of a dataset above that."""
    return _LOOP_PAUSE.value()


def retention_days() -> float:
    """Give the days, or parts of them, for which events and ended deliveries are kept."""
    return _RETENTION_DAYS.value()


def log_max_size() -> int:
    """Give the MiB of content that the log may hold beside what it keeps in any case."""
    return _LOG_MAX_SIZE.value()


def key_option() -> str:
    """Name the option that secrets are stored under."""
    if _entries(tk.config["ckanext.webhooks.secret_keys"]):
        return "ckanext.webhooks.secret_keys"
    return "SECRET_KEY" if tk.config.get("SECRET_KEY") else "beaker.session.secret"


def secret_keys() -> list[str]:
    """Give the Fernet keys for secrets at rest: the first writes, all read.

    What was stored before there were own ones is read by the derived key.
    """
    # CKAN 2.10 may have a beaker secret alone.
    site_secret = tk.config.get("SECRET_KEY") or tk.config.get("beaker.session.secret")
    own = _entries(tk.config["ckanext.webhooks.secret_keys"])
    return [*own, encryption.derived_key(str(site_secret))]


def report_mistakes() -> None:
    """Log options whose values make no sense, when CKAN starts."""
    for mistake in mistakes():
        log.error("%s", mistake)


def mistakes() -> Iterator[str]:
    """Say of each option whose value makes no sense what that does, and what would be right."""
    for option in OPTIONS:
        yield from option.mistakes()
    for text in _entries(tk.config["ckanext.webhooks.allowed_networks"]):
        if not _is_network(text) and not _is_endpoint(text):
            yield (
                f"ckanext.webhooks.allowed_networks: {text} is no network and allows nothing;"
                " write it as in 10.20.0.0/16 or airflow.internal:8080"
            )
    yield from _mistakes_outbound()
    if not _is_broker(str(tk.config["ckanext.webhooks.broker_url"] or "").strip()):
        # The value stays unsaid: it may hold a password.
        yield (
            "ckanext.webhooks.broker_url is no URL of a broker that Celery or redis-py knows, as"
            " redis://localhost:6379/2: until it is, ckan.redis.url counts"
        )
    try:
        encryption.encrypt("", secret_keys())
    except ValueError:
        # The value stays unsaid.
        yield (
            "ckanext.webhooks.secret_keys: each must be 32 bytes in urlsafe base64; until it is,"
            " webhooks can neither be created nor called"
        )
    yield from _mistakes_in_names()


def _mistakes_outbound() -> Iterator[str]:
    url, bundle = proxy(), ca_bundle()
    try:
        if url:
            outbound.check_proxy(url)
    except ValueError as error:
        option = "ckanext.webhooks.proxy" if _own_proxy() else "ckan.download_proxy"
        yield f"{option} {error}: until it is right, no webhook is called"
    try:
        if bundle:
            outbound.check_certificates(bundle)
    except ValueError as error:
        yield (
            f"ckanext.webhooks.ca_bundle = {error}: until it is right, no webhook is called over"
            " TLS"
        )


def _mistakes_in_names() -> Iterator[str]:
    for key in sorted(map(str, tk.config)):
        if key.startswith("ckanext.webhooks.") and key not in _defaults():
            nearest = difflib.get_close_matches(key, _defaults(), n=1, cutoff=0)
            yield f"{key} is no option and does nothing; the nearest that is one is {nearest[0]}"


def _entries(value: Any) -> list[str]:
    """Read a list: CKAN gives it split where there are spaces, and many write commas."""
    parts = [value] if isinstance(value, str) else value
    return [entry for part in parts for entry in str(part).replace(",", " ").split()]


def _number(text: Any, least: float, most: float) -> float:
    """:raises ValueError: it is no such number"""
    number = float(str(text))
    if not least <= number <= most:  # nan neither
        raise ValueError
    return number


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(text: Any) -> int:
        try:
            number = int(str(text))
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise ValueError(f"no whole number from {least} to {most}")
        return number

    return read


def _seconds(text: Any) -> float:
    try:
        # A tenth: less is over before a name is resolved.
        return _number(text, 0.1, 3600)
    except ValueError:
        raise ValueError("no number of seconds from 0.1 to 3600") from None


def _days(text: Any) -> float:
    try:
        return _number(text, math.ulp(0), _MOST_DAYS)
    except ValueError:
        raise ValueError(f"no number of days above 0, {_MOST_DAYS} at most") from None


def _waits(value: Any) -> list[float]:
    try:
        waits = [_number(entry, 0, _LONGEST_WAIT) for entry in _entries(value)]
    except ValueError:
        waits = []
    if not waits:
        raise ValueError(f"no list of seconds, each from 0 to {_LONGEST_WAIT}, as in 0 60 3600")
    return waits


def _yes_or_no(value: Any) -> bool:
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "t", "y", "1"):
        return True
    if text in ("false", "no", "off", "f", "n", "0", ""):
        return False
    raise ValueError("neither true nor false")


def _one_of(names: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in names:
            raise ValueError(f"none of {', '.join(names)}")
        return text

    return read


def _written(value: Any) -> str:
    """Give a value as it is written in ckan.ini."""
    return " ".join(str(part) for part in value) if isinstance(value, list) else str(value)


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_endpoint(text: str) -> bool:
    """Tell whether it is a name or an address with a port, ``[::1]:8080`` for IPv6."""
    try:
        parts = urlsplit(f"//{text}")
        return bool(parts.hostname and parts.port) and parts.netloc == text
    except ValueError:
        return False


def _is_broker(url: str) -> bool:
    """Tell whether it is a URL of a broker, or none at all."""
    if redis_broker.is_redis(url):
        try:
            redis_broker.celery_settings(url)
        except ValueError:
            return False
        return True
    # Of several, divided by semicolons, any may be used.
    schemes = [one.split("://")[0].split("+")[0] for one in url.split(";") if "://" in one]
    return not url or (bool(schemes) and all(name in TRANSPORT_ALIASES for name in schemes))


# What is not known to allow more allows the least.
_MINIMUM_AUTH_OPTION = Option("minimum_auth", _one_of(MINIMUM_AUTH), otherwise="sysadmin")
_CONTENT_OPTION = Option("content", _one_of(CONTENT), otherwise="anonymous")
_ENTITY_OPTION = Option("entity", _one_of(ENTITY), otherwise="stub")
_EXCLUDE_TYPES = Option("exclude_types", _entries)
_TIMEOUT = Option("timeout", _seconds)
_RETRY_SCHEDULE = Option("retry_schedule", _waits)
_MAX_IN_FLIGHT = Option("max_in_flight", _whole(0, _MOST_IN_FLIGHT))
_MAX_IN_FLIGHT_PER_WEBHOOK = Option("max_in_flight_per_webhook", _whole(1, _MOST_IN_FLIGHT))
_MAX_IN_FLIGHT_PER_HOST = Option("max_in_flight_per_host", _whole(0, _MOST_IN_FLIGHT))
_MAX_IN_FLIGHT_PER_OWNER = Option("max_in_flight_per_owner", _whole(0, _MOST_IN_FLIGHT))
_DISABLE_AFTER = Option("disable_after", _days)
_VERIFY = Option("verify", _yes_or_no, otherwise="true")
_MAX_PER_USER = Option("max_per_user", _whole(0, _MOST))
_MAX_PER_HOST = Option("max_per_host", _whole(0, _MOST))
_LOOP_BOUND = Option("loop_bound", _whole(0, _MOST))
_LOOP_PAUSE = Option("loop_pause", _whole(0, _LONGEST_WAIT))
_RETENTION_DAYS = Option("retention_days", _days)
_LOG_MAX_SIZE = Option("log_max_size", _whole(0, _MOST))
OPTIONS: tuple[Option[Any], ...] = (
    _MINIMUM_AUTH_OPTION,
    _CONTENT_OPTION,
    _ENTITY_OPTION,
    _EXCLUDE_TYPES,
    _TIMEOUT,
    _RETRY_SCHEDULE,
    _MAX_IN_FLIGHT,
    _MAX_IN_FLIGHT_PER_WEBHOOK,
    _MAX_IN_FLIGHT_PER_HOST,
    _MAX_IN_FLIGHT_PER_OWNER,
    _DISABLE_AFTER,
    _VERIFY,
    _MAX_PER_USER,
    _MAX_PER_HOST,
    _LOOP_BOUND,
    _LOOP_PAUSE,
    _RETENTION_DAYS,
    _LOG_MAX_SIZE,
)
