"""Which addresses may be called: a decision, no I/O.

A webhook lets a user make the portal send requests, so whatever is not on
the public internet is refused unless the portal allows it. ``is_global`` of
the standard library alone lets several of these through, and sees none that
is hidden in an IPv6 transition address.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import idna

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# What browsers and servers accept; longer ones are a mistake or an attack.
MAX_URL_LENGTH = 2048
# RFC 1035, section 2.3.4. An underscore is in names that are no host's of the internet's.
_MAX_NAME_LENGTH = 253
_LABEL = re.compile("[a-z0-9_-]{1,63}")
OPTION = "ckanext.webhooks.allowed_networks"
DEFAULT_PORTS = {"http": 80, "https": 443}

# https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-; and
# multicast, site-local and all that has no purpose yet, which are no endpoints.
_REFUSED: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "reserved"),
    ("192.52.193.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("192.175.48.0/24", "reserved"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "local-use NAT64"),
    ("100::/64", "discard-only"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "documentation"),
    ("2620:4f:8000::/48", "reserved"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
_REFUSED_NETWORKS: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ipaddress.ip_network(text), why) for text, why in _REFUSED
)
# Where clouds answer their machines with credentials, which a listed network
# is hardly meant to include; some are not in a private range at all.
_METADATA: dict[IPAddress, str] = {
    ipaddress.ip_address(text): cloud
    for text, cloud in (
        ("100.100.100.200", "Alibaba Cloud"),
        ("168.63.129.16", "Azure"),
        ("169.254.0.23", "Tencent Cloud"),
        ("169.254.42.42", "Scaleway"),
        ("169.254.169.250", "Rancher"),
        ("169.254.169.254", "AWS, Azure, Google Cloud, OpenStack and others"),
        ("169.254.170.2", "AWS ECS"),
        ("169.254.170.23", "AWS EKS"),
        ("192.0.0.192", "Oracle Cloud"),
        ("fd00:42::42", "Scaleway"),
        ("fd00:a9fe:a9fe::1", "Akamai"),
        ("fd00:c1::a9fe:a9fe", "Oracle Cloud"),
        ("fd00:ec2::23", "AWS EKS"),
        ("fd00:ec2::254", "AWS"),
        ("fd20:ce::254", "Google Cloud"),
        ("fe80::a9fe:a9fe", "OpenStack"),
    )
}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
_UNICAST = ipaddress.ip_network("2000::/3")


class RefusedAddress(ValueError):
    """An address that may not be called; the text says why and what to do."""


@dataclass(frozen=True)
class Allowed:
    """What a portal allows, read from its option.

    :param endpoints: names and addresses, as :func:`_canonical` writes them, with ports
    """

    networks: tuple[IPNetwork, ...] = ()
    endpoints: frozenset[tuple[str, int]] = frozenset()

    def has(self, address: IPAddress, port: int) -> bool:
        return _is_within(address, self.networks) or (str(address), port) in self.endpoints

    def has_by_itself(self, address: IPAddress, port: int) -> bool:
        ones = (n for n in self.networks if n.prefixlen == n.max_prefixlen)
        return _is_within(address, ones) or (str(address), port) in self.endpoints


def _is_never_own(_ip: str) -> bool:
    return False


def check_url(
    url: str, allowed_networks: Iterable[str], is_own: Callable[[str], bool] = _is_never_own
) -> None:
    """Check what can be known of a URL without resolving its name.

    :param allowed_networks: see :func:`check_ip`
    :param is_own: tells whether an address is this machine's, which is for who may ask it
    :raises RefusedAddress: the URL may not be registered or called
    """
    if len(url) > MAX_URL_LENGTH:
        raise RefusedAddress(f"must not be longer than {MAX_URL_LENGTH} characters")
    if any(c.isspace() or not c.isprintable() for c in url) or "\\" in url:
        raise RefusedAddress("must not contain spaces, control characters or backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise RefusedAddress(f"is not a URL: {error}") from None
    if parts.scheme not in DEFAULT_PORTS:
        raise RefusedAddress("must be a URL that starts with http:// or https://")
    if not host:
        raise RefusedAddress("must name a host, as in https://example.com/callback")
    if parts.username is not None or parts.password is not None:
        raise RefusedAddress(
            "must not hold a user name or password; send credentials in `headers` instead"
        )
    if port == 0:
        raise RefusedAddress("must name a port from 1 to 65535")
    _check_host(host, port or DEFAULT_PORTS[parts.scheme], tuple(allowed_networks), is_own)


def check_ip(
    ip: str,
    allowed_networks: Iterable[str],
    host: str = "",
    port: int = 0,
    is_own: bool = False,
) -> None:
    """Check one resolved address.

    :param ip: as ``getaddrinfo`` gives it
    :param allowed_networks: what may be called although it is not public:
        networks (CIDR); or a name or address with a port, ``[::1]:8080`` for
        IPv6. A cloud's metadata service only where it is listed by itself.
    :param host: the name that it is an address of
    :param port: the one that is to be called
    :param is_own: it is one of this machine's: what listens on all of them is reached by it
    :raises RefusedAddress: it is not public and not allowed; the text says so with the
        address, also where a name led to it: see ``phrases.for_owner``
    """
    address = ipaddress.ip_address(ip.split("%", 1)[0])
    allowed = read_allowed(tuple(allowed_networks))
    why = refusal(address, allowed, host, port)
    if why is None and is_own and not _is_open(address, allowed, host, port):
        why = "this machine's own"
    if why is not None:
        led = ", and the name leads to it" if _is_name_alone(host) else ""
        raise RefusedAddress(
            f"{ip} is not a public address ({why}){led};"
            f" the portal's operator may allow it by {OPTION}"
        )


def gives_away(ip: str, url: str) -> bool:
    """Tell whether an address says more of the portal's own network than a URL did.

    :param ip: that was connected to
    :param url: that led to it
    """
    address = _as_ip(ip)
    if address is not None and refusal(address) is None:
        return False
    return address is None or address != _as_ip(_canonical(_host_of(url)))


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def open_metadata(allowed: Allowed) -> list[str]:
    """Name the metadata services that may be called, each by its address."""
    ports = {port for _host, port in allowed.endpoints} | set(DEFAULT_PORTS.values())
    return [
        f"{address} ({cloud})"
        for address, cloud in _METADATA.items()
        if any(allowed.has_by_itself(address, port) for port in ports)
    ]


def refusal(
    address: IPAddress, allowed: Allowed = Allowed(), host: str = "", port: int = 0
) -> str | None:
    """Say what is wrong with an address, or None.

    IPv4 addresses within an IPv6 one are judged too, each by itself: that
    one of them is allowed says nothing of another.
    """
    every = (address, *embedded(address))
    if not allowed.has_by_itself(address, port):
        for inner in every:
            if inner in _METADATA and not allowed.has_by_itself(inner, port):
                return f"cloud metadata: {_METADATA[inner]}"
    if _is_open(address, allowed, host, port):
        return None
    for inner in every:
        if allowed.has(inner, port):
            continue
        for network, why in _REFUSED_NETWORKS:
            if _is_within(inner, (network,)):
                return why
    if address.version == 6 and len(every) == 1 and address not in _UNICAST:
        return "reserved"
    return None


def _is_open(address: IPAddress, allowed: Allowed, host: str, port: int) -> bool:
    return allowed.has(address, port) or bool(
        host and (_canonical(host), port) in allowed.endpoints
    )


def embedded(address: IPAddress) -> tuple[ipaddress.IPv4Address, ...]:
    """Give the IPv4 addresses that an IPv6 address stands for.

    IPv4-mapped and -compatible (RFC 4291), NAT64 (RFC 6052; where the prefix
    is for local use, RFC 8215, the network chooses one of several layouts),
    6to4 (RFC 3056), Teredo (RFC 4380: server and client), ISATAP (RFC 5214).
    """
    if address.version == 4:
        return ()
    found: list[ipaddress.IPv4Address] = []
    if address.ipv4_mapped:
        found.append(address.ipv4_mapped)
    if address.sixtofour:
        found.append(address.sixtofour)
    if address.teredo:
        found.extend(address.teredo)
    number = int(address)
    last = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    is_compatible = address in _COMPATIBLE and number > 1
    is_isatap = (number >> 32) & 0xFFFFFFFF in (0x5EFE, 0x02005EFE)
    if address in _NAT64 or is_compatible or is_isatap:
        found.append(last)
    if address in _LOCAL_NAT64:
        # RFC 6052, section 2.2: from bit 48, 56, 64 or 96, around the byte at bit 64.
        rest = number >> 64 << 56 | number & 0xFFFFFFFFFFFFFF
        found.extend(
            ipaddress.IPv4Address(rest >> (88 - start) & 0xFFFFFFFF) for start in (48, 56, 64)
        )
        found.append(last)
    return tuple(found)


@lru_cache(maxsize=64)  # the option's value, and what it was in tests
def read_allowed(entries: tuple[str, ...]) -> Allowed:
    """Read the option.

    :raises ValueError: an entry is neither a network nor a host with a port
    """
    networks: list[IPNetwork] = []
    endpoints: set[tuple[str, int]] = set()
    for text in entries:
        try:
            networks.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            parts = urlsplit(f"//{text}")
            if not parts.hostname or not parts.port or parts.netloc != text:
                raise
            endpoints.add((_canonical(parts.hostname), parts.port))
    return Allowed(tuple(networks), frozenset(endpoints))


def _check_host(
    host: str, port: int, allowed_networks: tuple[str, ...], is_own: Callable[[str], bool]
) -> None:
    name = _canonical(host)
    ip = _as_ip(name)
    if ip is not None:
        check_ip(str(ip), allowed_networks, name, port, is_own(str(ip)))
        if not host.isascii():  # what sends takes digits of other scripts for no address
            raise RefusedAddress("must name a host, as in https://example.com/callback")
    elif "%" in name:
        raise RefusedAddress("must not have a percent sign in its host")
    elif _is_localhost(name):
        check_ip("127.0.0.1", allowed_networks, name, port)
    elif name.split(".")[-1].isdigit():  # it would be one (WHATWG URL, section 3.5)
        raise RefusedAddress("must not have a host that ends in a number and is no IPv4 address")
    elif not _is_name(host, name):
        raise RefusedAddress("must name a host, as in https://example.com/callback")


def _is_name(host: str, name: str) -> bool:
    """Tell whether there can be a host of that name; else it is never sent to.

    :param name: the host as :func:`_canonical` writes it
    """
    try:
        # As what sends writes it (urllib3): by IDNA of 2008, which knows fewer names.
        host.isascii() or idna.encode(host.lower(), strict=True, std3_rules=True)
    except idna.IDNAError:
        return False
    return len(name) <= _MAX_NAME_LENGTH and all(map(_LABEL.fullmatch, name.split(".")))


def _is_name_alone(host: str) -> bool:
    """Tell whether a host does not say by itself which address it is."""
    name = _canonical(host)
    return bool(name) and not _is_localhost(name) and _as_ip(name) is None


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")  # RFC 6761, section 6.3


def _canonical(host: str) -> str:
    """Give one spelling of a host: as IDNA reads it, and addresses as usual."""
    # Digits, letters and full stops have many forms.
    name = unicodedata.normalize("NFKC", host).replace("\u3002", ".").removesuffix(".").lower()
    ip = _as_ip(name)
    if ip is not None:
        return str(ip)
    try:
        return name.encode("idna").decode("ascii")
    except UnicodeError:  # a label that is empty or too long
        return name


def _as_ip(host: str) -> IPAddress | None:
    """Read a host that is an address in any spelling that a resolver accepts."""
    text = host.rstrip(".")
    try:
        return ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return _odd_ipv4(text)


def _odd_ipv4(text: str) -> ipaddress.IPv4Address | None:
    """Read ``127.1``, ``0x7f000001``, ``2130706433``, ``0177.0.0.1`` as inet_aton does."""
    parts = text.split(".")
    if not 1 <= len(parts) <= 4:
        return None
    numbers: list[int] = []
    for part in parts:
        number = _odd_number(part)
        if number is None:
            return None
        numbers.append(number)
    *high, low = numbers
    if any(n > 255 for n in high) or low >= 256 ** (5 - len(numbers)):
        return None
    value = low
    for index, number in enumerate(high):
        value += number << (8 * (3 - index))
    return ipaddress.IPv4Address(value)


def _odd_number(text: str) -> int | None:
    lowered = text.lower()
    base = 16 if lowered.startswith("0x") else 8 if lowered.startswith("0") else 10
    digits = lowered[2:] if base == 16 else lowered
    if not digits.isascii() or not digits.isalnum():
        return None
    try:
        return int(digits, base)
    except ValueError:
        return None


def _is_within(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address.version == n.version and address in n for n in networks)
