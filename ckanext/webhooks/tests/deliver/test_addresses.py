"""Which addresses may be called."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ...deliver import addresses
from ...deliver.addresses import RefusedAddress, check_ip, check_url
from ...deliver.transport.engine import Settings
from ...deliver.transport.target import target

OPTION = "ckanext.webhooks.allowed_networks"

# Written down anew, from the IANA registries of special purpose addresses.
REFUSED_V4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]
REFUSED_V6 = [
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "2001:2::/48",
    "2001:db8::/32",
    "3fff::/20",
    "4000::/3",  # nothing outside 2000::/3 has been given out
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]

v4_refused = st.one_of([st.ip_addresses(network=network) for network in REFUSED_V4])
v6_refused = st.one_of([st.ip_addresses(network=network) for network in REFUSED_V6])


def _v6(prefix: str, v4: ipaddress.IPv4Address, shift: int) -> ipaddress.IPv6Address:
    return ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(v4) << shift)


EMBEDDINGS = {
    "mapped": lambda v4: _v6("::ffff:0:0", v4, 0),
    "compatible": lambda v4: _v6("::", v4, 0),
    "translated": lambda v4: _v6("::ffff:0:0:0", v4, 0),
    "nat64": lambda v4: _v6("64:ff9b::", v4, 0),
    "local nat64": lambda v4: _v6("64:ff9b:1::", v4, 0),
    "6to4": lambda v4: _v6("2002::", v4, 80),
    "teredo server": lambda v4: _v6("2001::", v4, 64),
    "teredo client": lambda v4: _v6("2001::", ipaddress.IPv4Address(int(v4) ^ 0xFFFFFFFF), 0),
    "isatap": lambda v4: _v6("2a00:1450::5efe:0:0", v4, 0),
    "isatap, global": lambda v4: _v6("2a00:1450::200:5efe:0:0", v4, 0),
}


@given(st.one_of(v4_refused, v6_refused))
def test_no_address_of_a_refused_network_passes(ip):
    with pytest.raises(RefusedAddress):
        check_ip(str(ip), ())
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    with pytest.raises(RefusedAddress):
        check_url(f"https://{host}/callback", ())


@pytest.mark.parametrize("embed", EMBEDDINGS.values(), ids=EMBEDDINGS)
@given(v4=v4_refused)
def test_nor_does_it_in_any_embedding(embed, v4):
    with pytest.raises(RefusedAddress):
        check_ip(str(embed(v4)), ())
    with pytest.raises(RefusedAddress):
        check_url(f"https://[{embed(v4)}]/callback", ())


@given(v4=v4_refused)
def test_nor_in_any_spelling_that_a_resolver_reads(v4):
    number = int(v4)
    a, b, c, d = v4.packed
    for host in (
        str(number),
        f"0x{number:x}",
        f"0{number:o}",
        f"0X{a:X}.0x{b:x}.{c}.{d}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"{v4}.",
    ):
        with pytest.raises(RefusedAddress):
            check_url(f"http://{host}/", ())


@given(st.ip_addresses(v=4))
def test_what_the_standard_library_calls_private_is_refused(ip):
    if not ip.is_global:
        with pytest.raises(RefusedAddress):
            check_ip(str(ip), ())


@pytest.mark.parametrize(
    "ip",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.167.255.255",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:831::200e",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::",
    ],
)
def test_public_addresses_pass(ip):
    check_ip(ip, ())
    check_url(f"https://[{ip}]/" if ":" in ip else f"https://{ip}/", ())


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("169.254.1.1", "link-local"),
        ("192.0.0.1", "reserved"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("fd00::1", "private"),
        ("fe80::1%eth0", "link-local"),
        ("::ffff:169.254.1.1", "link-local"),
        ("2002:7f00:1::", "loopback"),
        ("64:ff9b::a00:1", "private"),
    ],
)
def test_a_refusal_says_why_and_which_option_allows_it(ip, why):
    with pytest.raises(RefusedAddress) as refused:
        check_ip(ip, ())
    assert why in str(refused.value)
    assert OPTION in str(refused.value)


@pytest.mark.parametrize(
    ("ip", "networks"),
    [
        ("10.20.1.1", ["10.20.0.0/16"]),
        ("10.20.1.1", ["192.168.0.0/16", "10.20.1.1"]),
        ("10.20.1.1", ["10.20.1.1/16"]),  # host bits set: what is meant is clear
        ("::ffff:10.20.1.1", ["10.20.0.0/16"]),
        ("64:ff9b::a14:101", ["10.20.0.0/16"]),
        ("fd00::1", ["fd00::/8"]),
        ("fe80::1%eth0", ["fe80::/10"]),
        ("64:ff9b:1::a14:101", ["64:ff9b:1::/48"]),
    ],
)
def test_a_portal_may_allow_networks(ip, networks):
    check_ip(ip, networks)


@pytest.mark.parametrize(
    ("ip", "networks"),
    [
        ("10.21.1.1", ["10.20.0.0/16"]),
        ("127.0.0.1", ["10.0.0.0/8", "::1/128"]),
        ("::1", ["127.0.0.0/8"]),
        # A Teredo address whose server is allowed leads to a client that is not.
        (
            str(
                _v6(
                    str(_v6("2001::", ipaddress.IPv4Address("10.0.0.1"), 64)),
                    ipaddress.IPv4Address(
                        int(ipaddress.IPv4Address("169.254.169.254")) ^ 0xFFFFFFFF
                    ),
                    0,
                )
            ),
            ["10.0.0.0/8"],
        ),
    ],
)
def test_what_is_allowed_allows_nothing_beside_it(ip, networks):
    with pytest.raises(RefusedAddress):
        check_ip(ip, networks)


METADATA = {
    "169.254.169.254": "AWS",
    "169.254.170.2": "AWS ECS",
    "169.254.170.23": "AWS EKS",
    "168.63.129.16": "Azure",
    "192.0.0.192": "Oracle Cloud",
    "100.100.100.200": "Alibaba Cloud",
    "169.254.0.23": "Tencent Cloud",
    "169.254.42.42": "Scaleway",
    "fd00:ec2::254": "AWS",
    "fd00:ec2::23": "AWS EKS",
    "fd20:ce::254": "Google Cloud",
    "fd00:c1::a9fe:a9fe": "Oracle Cloud",
    "fd00:a9fe:a9fe::1": "Akamai",
    "fd00:42::42": "Scaleway",
    "fe80::a9fe:a9fe": "OpenStack",
    "fe80::a9fe:a9fe%eth0": "OpenStack",
}
ALL = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(("ip", "cloud"), METADATA.items())
def test_metadata_of_clouds_is_shut_even_where_its_network_is_listed(ip, cloud):
    for networks in ((), ALL):
        with pytest.raises(RefusedAddress, match=f"cloud metadata: .*{cloud}"):
            check_ip(ip, networks, "metadata.internal", 80)
    # Nor does a name that is listed lead there.
    with pytest.raises(RefusedAddress, match="cloud metadata"):
        check_ip(ip, ["metadata.internal:80", *ALL], "metadata.internal", 80)


@pytest.mark.parametrize("ip", METADATA)
def test_metadata_that_is_listed_by_itself_is_open(ip):
    ip = ip.split("%")[0]
    check_ip(ip, [ip])
    check_ip(ip, [f"[{ip}]:80" if ":" in ip else f"{ip}:80"], "any.name", 80)
    with pytest.raises(RefusedAddress):
        check_ip(ip, [f"[{ip}]:80" if ":" in ip else f"{ip}:80"], "any.name", 81)


@pytest.mark.parametrize("name", [name for name in EMBEDDINGS if name != "translated"])
@pytest.mark.parametrize("ip", [ip for ip in METADATA if "." in ip])
def test_metadata_is_shut_in_any_embedding(name, ip):
    embedded = str(EMBEDDINGS[name](ipaddress.IPv4Address(ip)))
    for networks in ((), ALL):
        with pytest.raises(RefusedAddress, match="cloud metadata"):
            check_ip(embedded, networks)


@pytest.mark.parametrize(
    "ip",
    [
        "64:ff9b:1::a9fe:a9fe",  # as with a prefix of 96 bits
        "64:ff9b:1:a9fe:a9:fe00::",  # 48
        "64:ff9b:1:a9:fe:a9fe::",  # 56
        "64:ff9b:1:0:a9:fea9:fe00:0",  # 64
    ],
)
def test_every_layout_of_a_local_nat64_is_read(ip):
    with pytest.raises(RefusedAddress, match="cloud metadata"):
        check_ip(ip, ALL)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://airflow.internal:8080/hook", "airflow.internal:8080"),
        ("http://AIRFLOW.internal.:8080/hook", "airflow.internal:8080"),
        ("http://airflow.internal:8080/hook", "Airflow.Internal.:8080"),
        ("http://bücher.internal/", "xn--bcher-kva.internal:80"),
        ("https://xn--bcher-kva.internal/", "bücher.internal:443"),
        ("http://localhost:8080/", "localhost:8080"),
        ("http://10.0.0.5:8080/", "10.0.0.5:8080"),
        ("http://0xa000005:8080/", "10.0.0.5:8080"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("http://[0:0:0:0:0:0:0:1]:8080/", "[::1]:8080"),
        ("http://10.0.0.5/", "10.0.0.5:80"),
    ],
)
def test_a_portal_may_allow_a_host_and_port(url, entry):
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    check_url(url, [entry])
    ip = parts.hostname if ":" in parts.hostname else "10.0.0.5"
    check_ip(ip, [entry], parts.hostname, port)
    for other in (ip, parts.hostname):
        with pytest.raises(RefusedAddress):
            check_ip(ip, [entry], other, port + 1)
    with pytest.raises(RefusedAddress):
        check_ip("10.0.0.6", [entry], "elsewhere.internal", port)


def test_an_address_with_a_port_is_open_by_any_name_and_at_that_port_alone():
    check_ip("10.0.0.5", ["10.0.0.5:8080"], "any.name", 8080)
    check_ip("::ffff:10.0.0.5", ["10.0.0.5:8080"], "any.name", 8080)
    for ip, port in (("10.0.0.5", 80), ("10.0.0.6", 8080)):
        with pytest.raises(RefusedAddress):
            check_ip(ip, ["10.0.0.5:8080"], "any.name", port)


@pytest.mark.parametrize(
    "entry", ["", "intranet", "10.0.0.0/99", "host:", ":80", "host:http", "a/b"]
)
def test_an_entry_that_is_none_is_an_error(entry):
    with pytest.raises(ValueError):
        check_ip("10.0.0.1", [entry])


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/callback",
        "https://example.com",
        "HTTPS://Example.COM:8443/a/b?c=d#e",
        "https://example.com:65535/",
        "http://bücher.example/ü",
        "https://xn--bcher-kva.example/",
        "https://example.com./",
        "http://8.8.8.8/",
        "http://[2606:4700:4700::1111]:8080/",
        "https://not-localhost.example/",
        "https://0xcafe.example/",
        "https://123.example/",
        "https://example.com/" + "a" * 2000,
    ],
)
def test_urls_that_may_be_registered(url):
    check_url(url, ())


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("", "http://"),
        ("callback", "http://"),
        ("example.com/callback", "http://"),
        ("//example.com/", "http://"),
        ("ftp://example.com/", "http://"),
        ("file:///etc/passwd", "http://"),
        ("javascript:alert(1)", "http://"),
        ("gopher://example.com:25/", "http://"),
        ("unix:///run/x.sock", "http://"),
        ("http+unix://%2Frun/x", "http://"),
        ("http:", "host"),
        ("http://", "host"),
        ("http:///path", "host"),
        ("http://:80/", "host"),
        ("http:example.com", "host"),
        ("http://user@example.com/", "headers"),
        ("http://user:secret@example.com/", "headers"),
        ("http://:secret@example.com/", "headers"),
        ("http://@example.com/", "headers"),
        ("http://example.com:0/", "port"),
        ("http://example.com:65536/", "URL"),
        ("http://example.com:http/", "URL"),
        ("http://[::1/", "URL"),
        ("http://exa mple.com/", "spaces"),
        ("http://example.com/\r\nHost: x", "spaces"),
        ("http://example.com/\tx", "spaces"),
        ("http://example.com/\x00", "control"),
        ("http://example.com\\@127.0.0.1/", "backslashes"),
        ("http://example.com/\u2028", "spaces"),
        ("http://example.com/\u202e", "control"),
        ("http://example.com/" + "a" * 10_000, "2048"),
        ("http://localhost/", "loopback"),
        ("http://LOCALHOST:5000/", "loopback"),
        ("http://localhost./", "loopback"),
        ("http://a.localhost/", "loopback"),
        ("http://127.1/", "loopback"),
        ("http://127.0.1/", "loopback"),
        ("http://2130706433/", "loopback"),
        ("http://0x7f.1/", "loopback"),
        ("http://0177.0.0.1/", "loopback"),
        ("http://0/", "this network"),
        ("http://127.0.0.1./", "loopback"),
        ("http://[::]/", "unspecified"),
        ("http://[::1]/", "loopback"),
        ("http://[0:0:0:0:0:0:0:1]:80/", "loopback"),
        ("http://[::ffff:7f00:1]/", "loopback"),
        ("http://[fe80::1%25eth0]/", "link-local"),
        ("http://169.254.169.254/latest/meta-data/", "cloud metadata"),
        ("http://2852039166/latest/meta-data/", "cloud metadata"),
        ("http://0xa9fea9fe/", "cloud metadata"),
        ("http://0251.0376.0251.0376/", "cloud metadata"),
        ("http://169.254.43518/", "cloud metadata"),
        ("http://[::ffff:169.254.169.254]/", "cloud metadata"),
        ("http://[::FFFF:A9FE:A9FE]:80/", "cloud metadata"),
        ("http://[fd00:ec2::254]/", "cloud metadata"),
        ("http://[FD00:EC2:0:0:0:0:0:254]/", "cloud metadata"),
        ("http://１６９.254.169.254/", "cloud metadata"),
        ("http://169.254.169.254./", "cloud metadata"),
        ("http://%31%32%37.0.0.1/", "percent"),
        ("http://local%68ost/", "percent"),
        ("http://127.0.0.1%2e/", "loopback"),
        # Compatibility characters, which IDNA turns into digits and full stops.
        ("http://１２７.0.0.1/", "loopback"),
        ("http://①②⑦.⓪.⓪.①/", "loopback"),
        ("http://127。0。0。1/", "loopback"),
        ("http://ｌocalhost/", "loopback"),
    ],
)
def test_urls_that_may_not(url, wrong):
    with pytest.raises(RefusedAddress, match=wrong):
        check_url(url, ())


def test_an_address_of_this_machine_is_refused_like_loopback():
    """A service that listens on all of them is behind no firewall there."""
    for ip in ("8.8.8.8", "2606:4700:4700::1111"):
        with pytest.raises(RefusedAddress, match="this machine's own"):
            check_ip(ip, (f"{ip}:80",), "portal.example", 8983, is_own=True)
    check_ip("8.8.8.8", ("8.8.8.8:8983",), "", 8983, is_own=True)
    check_ip("8.8.8.8", ("8.8.8.0/24",), is_own=True)
    check_ip("8.8.8.8", ("portal.example:8983",), "portal.example", 8983, is_own=True)


@pytest.mark.parametrize("host", ["0x", "1.b", "0xg", "a_b", "xn--bcher-kva", "a." * 126 + "a"])
def test_what_is_no_number_is_a_name(host):
    """Whether it resolves, and where to, is checked at each dial."""
    check_url(f"http://{host}/", ())


@pytest.mark.parametrize(
    "host",
    [
        *("*.example.com", ".example.com", "example..com", "example.com..", ".", "a,b.example"),
        *("a" * 64 + ".example", "ü" * 70 + ".example", "a." * 127 + "a", "a" * 1500),
        *("☃.example", "-ü.example", "9.①"),
    ],
)
def test_what_can_never_be_a_host_is_refused_as_where_it_would_be_sent(host):
    with pytest.raises(RefusedAddress, match="must name a host"):
        check_url(f"http://{host}/", ())


@pytest.mark.parametrize(
    "host", ["256.256.256.256", "1.2.3.4.5", "256.1.1.1.1", "08.1.1.1", "1..2", "a.1"]
)
def test_what_would_be_an_ipv4_address_and_is_none_is_refused_as_that(host):
    with pytest.raises(RefusedAddress, match="ends in a number and is no IPv4 address"):
        check_url(f"http://{host}/", ())


@given(st.text(alphabet="aZ09-_.*ü①☃。ß\u200d%", min_size=1, max_size=80))
def test_what_the_field_takes_is_what_can_be_sent_to(host):
    url = f"http://{host}/"
    try:
        check_url(url, ())
    except RefusedAddress:
        return
    found = target(url, Settings((), None, None))
    found.host.encode("idna")  # as the resolver asks for it


@given(st.text())
def test_no_text_breaks_the_check(text):
    for url in (text, f"http://{text}", f"http://{text}/", f"http://[{text}]/"):
        try:
            check_url(url, ())
        except RefusedAddress:
            pass


def test_registering_needs_no_name_server():
    check_url("http://no-such-name.invalid/callback", ())


def test_the_limit_of_a_url_is_one_number():
    check_url("http://example.com/".ljust(addresses.MAX_URL_LENGTH, "a"), ())
    with pytest.raises(RefusedAddress):
        check_url("http://example.com/".ljust(addresses.MAX_URL_LENGTH + 1, "a"), ())
