"""Which destinations are refused: vectors for addresses, for the texts of URLs, and for rewriting."""

from __future__ import annotations

import ipaddress

import pytest

from idioteque.errors import AddressDenied, ConfigurationError
from idioteque.server.errors import BadRequest
from idioteque.server.network import (
    CARRIERS,
    METADATA,
    PRIVATE_V4,
    PRIVATE_V6,
    NetworkPolicy,
    RewritingTransport,
    checked_rewrite,
    is_public,
    split_url,
)
from idioteque.testing import ScriptedTransport
from idioteque.transport import HttpRequest

PRIVATE = """
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 127.0.0.1 127.255.255.254 0.0.0.0 0.1.2.3 100.64.0.1
100.127.255.255 169.254.1.1 169.254.169.254 198.18.0.1 198.19.255.255 192.0.0.1 192.0.0.8 192.0.2.1 198.51.100.1
203.0.113.1 192.88.99.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16 100.100.100.200
::1 :: fe80::1 febf::1 fc00::1 fdff::1 fd00:ec2::254 fec0::1 ff02::1 2001:db8::1 3fff::1 5f00::1 100::1
::ffff:127.0.0.1 ::ffff:a9fe:a9fe ::ffff:10.0.0.1 ::127.0.0.1 ::10.0.0.1 ::ffff:0:127.0.0.1 ::ffff:0:a9fe:a9fe
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1
2001:0:808:808::f5ff:fffe 2001:0:7f00:1::f7f7:f7f7 2001:10::1 2001:20::1 2001:2::1 4000::1 e000::1
""".split()  # noqa: SIM905 - easier to read

PUBLIC = """
8.8.8.8 1.1.1.1 93.184.216.34 11.0.0.0 172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0 169.253.1.1 198.17.255.255
198.20.0.0 223.255.255.255 9.255.255.255 126.255.255.255 128.0.0.0
2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1
2001:0:808:808::f7f7:f7f7 2001:200::1
""".split()  # noqa: SIM905 - easier to read


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public_are_never_connected_to(address: str) -> None:
    with pytest.raises(AddressDenied):
        NetworkPolicy().check_address(address, 443)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_reached(address: str) -> None:
    NetworkPolicy().check_address(address, 443)
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("network", [*PRIVATE_V4, *PRIVATE_V6, *METADATA])
def test_every_network_of_the_tables_is_refused_from_its_first_to_its_last_address(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> None:
    teredo_of_a_public_pair = not any(network[0] in carrier for carrier in CARRIERS)
    assert teredo_of_a_public_pair
    assert not is_public(network[0])
    assert not is_public(network[-1])


def test_a_zone_does_not_hide_an_address() -> None:
    with pytest.raises(AddressDenied):
        NetworkPolicy().check_address("fe80::1%eth0", 80)


def test_an_allowed_network_is_reached_and_its_neighbours_are_not() -> None:
    policy = NetworkPolicy(["10.1.0.0/16", "127.0.0.1/32"])
    policy.check_address("10.1.2.3", 80)
    policy.check_address("::ffff:10.1.2.3", 80)
    policy.check_address("127.0.0.1", 80)
    for address in ("10.2.0.1", "127.0.0.2", "::1", "::ffff:10.2.0.1"):
        with pytest.raises(AddressDenied):
            policy.check_address(address, 80)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "::ffff:169.254.169.254",
     "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"],
)  # fmt: skip
def test_metadata_addresses_stay_blocked_whatever_is_allowed(address: str) -> None:
    for policy in (NetworkPolicy(dev=True), NetworkPolicy(["0.0.0.0/0", "::/0"])):
        with pytest.raises(AddressDenied, match="metadata"):
            policy.check_address(address, 80)


def test_the_server_does_not_send_to_itself() -> None:
    policy = NetworkPolicy(dev=True)
    policy.refuse_own("0.0.0.0", 8080)
    policy.check_address("127.0.0.1", 8081)
    with pytest.raises(AddressDenied, match="this server itself"):
        policy.check_address("127.0.0.1", 8080)


def test_the_refusal_names_the_flag() -> None:
    with pytest.raises(AddressDenied, match=r"--allow-private 10\.0\.0\.1/32, or all of them with --dev"):
        NetworkPolicy().check_address("10.0.0.1", 80)


@pytest.mark.parametrize("network", ["10.0.0.0/40", "loopback", "", "10.0.0.0/8,127.0.0.1"])
def test_a_bad_network_is_a_clear_error(network: str) -> None:
    with pytest.raises(ConfigurationError, match="--allow-private takes a network like"):
        NetworkPolicy([network])


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://127.0.0.1", "http://127.0.0.1:8080/x", "http://127.0.0.1?x", "https://10.0.0.1",
        "http://2130706433/", "http://0x7f.1/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/",
        "http://017700000001", "http://1.2.3/", "http://256.1.1.1/", "http://1.2.3.4.5/", "http://127.0.0.1./",
        "http://\u2460\u2461\u2466.0.0.1/", "http://localhost/", "http://LOCALHOST/", "http://localhost./",
        "http://foo.localhost:3000/", "http://ok@127.0.0.1/", "http://ok:pw@127.0.0.1/", "http://8.8.8.8@127.0.0.1/",
        "http://127.0.0.1#@8.8.8.8/", "http://ok\\@127.0.0.1/", "http://127.0.0.1\\@ok/", "http://ok.test\t/",
        "http://ok.test\n/", "http://ok.test/\r\nX: y", "http://ok.test/\x00", "http://[::1]/", "http://[::]/",
        "http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/", "http://[fe80::1%25eth0]/", "http://[fc00::1]/",
        "http://[::1", "http://::1/", "http://[v1.x]/", "http://[]/", "http:///x", "http://", "//ok.test/", "ok.test",
        "ftp://ok.test/", "javascript:alert(1)", "file:///etc/passwd", "http://ok.test:0/", "http://ok.test:22/",
        "http://ok.test:25/", "http://ok.test:6379/", "http://ok.test:70000/", "http://ok.test:8x/", "http://ok.test:-1/",
        "http://a b.test/", "http://b\u00fccher.test/", "http://ok..test/", "http://.test/", "http://@/",
        "http://169.254.169.254/latest/meta-data/", "http://ok.test/\ud800",
    ],
)  # fmt: skip
def test_these_texts_are_refused_at_publish(url: str) -> None:
    with pytest.raises(BadRequest, match="invalid destination url: "):
        NetworkPolicy().checked_url(url)


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://ok.test", "https://ok.test"),
        ("HTTP://Ok.Test:8080/A?b=c", "HTTP://Ok.Test:8080/A?b=c"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("http://[2606:4700:4700::1111]:8080/", "http://[2606:4700:4700::1111]:8080/"),
        ("http://ok.test/a b", "http://ok.test/a%20b"),
        ("http://ok.test/\u00e9?\u00e9", "http://ok.test/%C3%A9?%C3%A9"),
        ("http://ok.test/%0d%0a", "http://ok.test/%0d%0a"),
        ("http://ok.test/x#frag", "http://ok.test/x"),
        ("http://ok.test#@127.0.0.1/", "http://ok.test"),
        ("http://xn--bcher-kva.test/", "http://xn--bcher-kva.test/"),
        ("http://app_1.internal:3000/", "http://app_1.internal:3000/"),
        ("http://web:3000/", "http://web:3000/"),
        ("http://127.0.0.1.nip.io/", "http://127.0.0.1.nip.io/"),  # a name: judged when it is resolved
    ],
)
def test_these_texts_pass_and_are_kept(url: str, stored: str) -> None:
    assert NetworkPolicy().checked_url(url) == stored


def test_a_url_is_split_as_it_will_be_used() -> None:
    parts = split_url("https://User:Pw@Shop.Test:8443/a//b?c#")
    assert (parts.origin, parts.host, parts.path) == ("https://shop.test:8443", "shop.test:8443", "/a//b")
    assert split_url("http://shop.test?x").path == "/"


async def test_a_rewritten_origin_is_sent_elsewhere_under_its_own_name() -> None:
    usual, rewritten = ScriptedTransport(), ScriptedTransport()
    transport = RewritingTransport(usual, rewritten, [checked_rewrite("https://App.test=http://10.0.0.5:3000/")])
    await transport.send(HttpRequest("POST", "https://app.test/a?b=1"))
    await transport.send(HttpRequest("POST", "https://app.test.evil/a"))
    assert [(r.url, r.header("Host")) for r in rewritten.requests] == [("http://10.0.0.5:3000/a?b=1", "app.test")]
    assert [r.url for r in usual.requests] == ["https://app.test.evil/a"]


@pytest.mark.parametrize(
    "text", ["https://a.test", "a=b", "https://a.test/path=https://b.test", "https://a=ftp://b", "="]
)
def test_a_bad_rewrite_is_a_clear_error(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--rewrite takes FROM=TO"):
        checked_rewrite(text)
