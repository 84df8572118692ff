"""The options: declared, described, with defaults that make sense."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from ckan.config.declaration import Declaration
from cryptography.fernet import Fernet

from .. import config, encryption
from ..deliver import addresses, transport

DECLARATION = yaml.safe_load((Path(config.__file__).parent / "config_declaration.yaml").read_text())
# CKAN's configuration is loaded with CKAN.
pytestmark = pytest.mark.database

OPTIONS = {option["key"]: option for group in DECLARATION["groups"] for option in group["options"]}
KEYS = [Fernet.generate_key().decode() for _ in range(2)]


@pytest.mark.parametrize("key", OPTIONS)
def test_each_option_is_explained(key):
    option = OPTIONS[key]
    assert key.startswith("ckanext.webhooks.")
    assert option["description"].strip().endswith(".")
    assert option["example"] != option["default"]
    assert "default" in option


def test_what_is_read_is_what_is_declared():
    source = Path(config.__file__).read_text()
    read = {part.split('"')[0] for part in source.split('tk.config["')[1:]}
    read |= {option.key for option in config.OPTIONS}
    assert {key for key in read if key.startswith("ckanext.webhooks.")} == set(OPTIONS)


def test_the_defaults():
    assert config.minimum_auth() == "none"
    assert config.exclude_types() == {"harvest"}
    assert config.timeout() == 10
    # The schedule of the Standard Webhooks specification.
    assert config.retry_schedule() == [0, 5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    assert config.max_in_flight() == 0
    assert config.max_in_flight_per_webhook() == 8
    assert config.max_in_flight_per_host() == 0
    assert config.max_in_flight_per_owner() == 0
    assert config.disable_after() == 5 * 86400
    assert config.verify() is False
    assert (config.max_per_user(), config.max_per_host()) == (100, 1000)
    assert (config.loop_bound(), config.loop_pause()) == (1000, 10)
    assert config.retention_days() == 30
    assert config.broker_url().startswith("redis://"), "CKAN's own"
    assert config.site_url() == "http://webhooks.test"
    assert OPTIONS["ckanext.webhooks.allowed_networks"]["default"] == []


@pytest.mark.ckan_config("ckanext.webhooks.minimum_auth", " Editor ")
@pytest.mark.ckan_config("ckanext.webhooks.timeout", "5")
@pytest.mark.ckan_config("ckanext.webhooks.retry_schedule", ["0", "1.5"])
@pytest.mark.ckan_config("ckanext.webhooks.broker_url", "redis://elsewhere/3")
@pytest.mark.ckan_config("ckanext.webhooks.exclude_types", [])
@pytest.mark.ckan_config("ckanext.webhooks.secret_keys", KEYS)
def test_what_is_set_is_read():
    assert config.minimum_auth() == "editor"
    assert config.timeout() == 5.0
    assert config.retry_schedule() == [0.0, 1.5]
    assert config.broker_url() == "redis://elsewhere/3"
    assert config.exclude_types() == frozenset()
    assert config.secret_keys()[:-1] == KEYS


@pytest.mark.ckan_config("SECRET_KEY", "the site's")
def test_without_keys_there_is_one_of_the_site():
    assert config.secret_keys() == [encryption.derived_key("the site's")]


@pytest.mark.ckan_config("SECRET_KEY", "the site's")
@pytest.mark.ckan_config("ckanext.webhooks.secret_keys", KEYS)
def test_the_key_of_the_site_goes_on_reading_behind_own_ones():
    assert config.secret_keys() == [*KEYS, encryption.derived_key("the site's")]


@pytest.mark.ckan_config("SECRET_KEY", "")
@pytest.mark.ckan_config("beaker.session.secret", "beaker's")
def test_ckan_2_10_may_have_beaker_s_secret_alone():
    assert config.secret_keys() == [encryption.derived_key("beaker's")]


def reported(caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=config.__name__):
        config.report_mistakes()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("value", config.MINIMUM_AUTH)
def test_what_makes_sense_is_not_reported(value, caplog, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.minimum_auth", value)
    assert reported(caplog) == []


@pytest.mark.parametrize("value", ["anyone", "", "Admins", "editor admin"])
def test_a_nonsense_minimum_auth_is_reported(value, caplog, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.minimum_auth", value)
    (message,) = reported(caplog)
    assert f"ckanext.webhooks.minimum_auth = {value}" in message
    assert "none, editor, admin, sysadmin" in message
    assert config.minimum_auth() == "sysadmin"


@pytest.mark.ckan_config("ckanext.webhooks.entity", "some")
def test_a_nonsense_entity_is_reported(caplog):
    (message,) = reported(caplog)
    assert "ckanext.webhooks.entity = some is none of full, stub" in message
    assert config.entity() == "stub"


@pytest.mark.ckan_config(
    "ckanext.webhooks.allowed_networks",
    ["10.20.0.0/16", "intranet", "10.0.0.0/99", "fd00::/8", "airflow.internal:8080", "[::1]:80"],
)
def test_a_network_that_is_none_is_reported_and_allows_nothing(caplog):
    messages = reported(caplog)
    assert len(messages) == 2
    assert "intranet" in messages[0] and "10.0.0.0/99" in messages[1]
    assert config.allowed_networks() == [
        "10.20.0.0/16",
        "fd00::/8",
        "airflow.internal:8080",
        "[::1]:80",
    ]
    for entry in config.allowed_networks():
        addresses.read_allowed((entry,))  # what one takes, the other one does


@pytest.mark.parametrize("text", ["host:", ":80", "host:0", "host:http", "a/b:80", "a:80/b", ""])
def test_neither_takes_these(text, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.allowed_networks", [text])
    assert config.allowed_networks() == []
    with pytest.raises(ValueError):
        addresses.read_allowed((text,))


@pytest.mark.ckan_config("ckan.download_proxy", "http://ckan.proxy:1")
def test_the_proxy_is_an_own_one_or_ckan_s(ckan_config, monkeypatch):
    assert config.proxy() == "http://ckan.proxy:1"
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.proxy", "http://own.proxy:2")
    assert config.proxy() == "http://own.proxy:2"
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.proxy", "own.proxy:3")
    assert config.proxy() == "http://own.proxy:3"


@pytest.mark.parametrize("text", ["none", " None "])
@pytest.mark.ckan_config("ckan.download_proxy", "http://ckan.proxy:1")
def test_none_is_no_proxy_whichever_ckan_has(text, caplog, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.proxy", text)
    assert config.proxy() is None
    assert reported(caplog) == []


@pytest.mark.parametrize("option", ["ckanext.webhooks.proxy", "ckan.download_proxy"])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://user:geheim@proxy.internal:99999", "a port that is none from 1 to 65535"),
        ("http://proxy.internal:0", "a port that is none from 1 to 65535"),
        ("proxy.internal:geheim", "a port that is none from 1 to 65535"),
        ("socks5://user:geheim@proxy:3128", "no URL that starts with http:// or https://"),
        ("http://:3128", "names no host"),
        ("http://a geheim:3128", "names no host"),
        ("http://[::1:3128", "is no URL"),
    ],
)
def test_a_proxy_that_is_none_is_reported_and_not_repeated(
    option, url, why, caplog, ckan_config, monkeypatch
):
    monkeypatch.setitem(ckan_config, option, url)
    (message,) = reported(caplog)
    assert message.startswith(option)
    assert why in message and "http://proxy.internal:3128" in message
    assert "geheim" not in message
    with pytest.raises(ValueError, match="the proxy"):
        transport.open_engine(transport.Settings(proxy=config.proxy()))


def test_without_either_there_is_no_proxy_and_no_own_bundle():
    assert (config.proxy(), config.ca_bundle()) == (None, None)


@pytest.mark.parametrize("path", ["/nowhere/bundle.pem", "/etc/passwd", "/etc", "/dev/null"])
def test_a_bundle_without_certificates_is_reported(path, caplog, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.ca_bundle", path)
    (message,) = reported(caplog)
    assert message.startswith(f"ckanext.webhooks.ca_bundle = {path} has no certificates")
    assert "PEM" in message and "no webhook is called over TLS" in message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("retentoin_days", "retention_days"), ("proxies", "proxy"), ("max_per_users", "max_per_user")],
)
def test_a_name_that_no_option_has_is_reported_with_the_nearest(
    typed, meant, caplog, ckan_config, monkeypatch
):
    monkeypatch.setitem(ckan_config, f"ckanext.webhooks.{typed}", "geheim")
    (message,) = reported(caplog)
    assert message.startswith(f"ckanext.webhooks.{typed} is no option")
    assert message.endswith(f"ckanext.webhooks.{meant}")


@pytest.mark.ckan_config("ckanext.webhooks.secret_keys", [KEYS[0], "geheim"])
def test_a_key_that_is_none_is_reported_and_not_repeated(caplog):
    (message,) = reported(caplog)
    assert "ckanext.webhooks.secret_keys" in message
    assert "geheim" not in message


@pytest.mark.ckan_config("ckanext.webhooks.disable_after", "0.5")
@pytest.mark.ckan_config("ckanext.webhooks.retention_days", "0.25")
def test_part_of_a_day_is_enough():
    assert config.disable_after() == 43200
    assert config.retention_days() == 0.25


@pytest.mark.parametrize(
    "value", ["0, 5, 300", "0,5,300", "0 5 300", ["0,", "5,", "300"], [0, 5, 300], " 0 ,5  300,"]
)
def test_spaces_and_commas_divide_what_is_listed(value, caplog, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.retry_schedule", value)
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.exclude_types", ["harvest,", "showcase"])
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.secret_keys", [",".join(KEYS)])
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.allowed_networks", ["10.0.0.0/8,solr:80"])
    assert reported(caplog) == []
    assert config.retry_schedule() == [0, 5, 300]
    assert config.exclude_types() == {"harvest", "showcase"}
    assert config.secret_keys()[:-1] == KEYS
    assert config.allowed_networks() == ["10.0.0.0/8", "solr:80"]


NO_NUMBERS = ["", "soon", "nan", "inf", "-1", "1e300", "9" * 400, "5 s", None]
NO_VALUES = {
    "timeout": [*NO_NUMBERS, "0"],
    "retry_schedule": ["", [], "0 soon", "0;5", "0, -1", "0 inf", "0 nan", "0 1e9"],
    "max_in_flight": [*NO_NUMBERS, "1.5"],
    "max_in_flight_per_webhook": [*NO_NUMBERS, "0"],
    "max_in_flight_per_host": NO_NUMBERS,
    "max_in_flight_per_owner": NO_NUMBERS,
    "disable_after": [*NO_NUMBERS, "0"],
    "retention_days": [*NO_NUMBERS, "0"],
    "max_per_user": NO_NUMBERS,
    "max_per_host": NO_NUMBERS,
    "loop_bound": NO_NUMBERS,
    "loop_pause": NO_NUMBERS,
    "log_max_size": NO_NUMBERS,
}


@pytest.mark.parametrize("name", NO_VALUES)
def test_a_value_that_makes_no_sense_is_named_and_counts_as_the_default(
    name, caplog, ckan_config, monkeypatch
):
    expected = getattr(config, name)()
    for value in NO_VALUES[name]:
        monkeypatch.setitem(ckan_config, f"ckanext.webhooks.{name}", value)
        (message,) = reported(caplog)
        shown = OPTIONS[f"ckanext.webhooks.{name}"]["default"]
        assert message.startswith(f"ckanext.webhooks.{name} = ")
        assert message.endswith(f"until it is, it counts as {shown}")
        assert getattr(config, name)() == expected


def test_the_default_is_the_declared_one_whatever_is_set(ckan_config, monkeypatch):
    for name in NO_VALUES:
        monkeypatch.setitem(ckan_config, f"ckanext.webhooks.{name}", "none of them")
    test_the_defaults()


@pytest.mark.parametrize("value", ["perhaps", "tru", "2"])
def test_whether_to_verify_is_yes_where_it_makes_no_sense(value, caplog, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.verify", value)
    (message,) = reported(caplog)
    assert message == (
        f"ckanext.webhooks.verify = {value} is neither true nor false: until it is, it counts as"
        " true"
    )
    assert config.verify() is True


@pytest.mark.parametrize("text", ["true", "Yes", "on", "1"])
def test_what_is_switched_on_is_on(text, ckan_config, monkeypatch):
    monkeypatch.setitem(ckan_config, "ckanext.webhooks.verify", text)
    assert config.verify() is True


def test_ckan_starts_with_values_that_make_no_sense(ckan_config, monkeypatch):
    """It refuses to where a value is not of the type that it was told of."""
    declaration = Declaration()
    declaration.load_dict(DECLARATION)
    for name in NO_VALUES:
        monkeypatch.setitem(ckan_config, f"ckanext.webhooks.{name}", "none of them")
    _, errors = declaration.validate(ckan_config)
    assert errors == {}
