"""Pages come from allowed hosts at public addresses, and from nowhere else, whatever redirects and names say."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from goalwright_executor.app import build
from goalwright_executor.settings import ExecutorSettings, lanes
from goalwright_executor.web.fetch import Fetcher, NotFetched
from goalwright_executor.web.pages import text_of
from goalwright_executor.web.performer import Web
from goalwright_executor.web.rules import NotAllowed, Rules, check_address, checked, networks
from goalwright_shared.lifecycle import Stopper
from goalwright_shared.messages import Done, Failed, OutputSpec, TaskSpec, Work
from goalwright_shared.worker import Attempt
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.artifacts import MemoryArtifacts

LOOPBACK = networks("127.0.0.1/32")
RULES = Rules(hosts=("example.org", "*.example.org"), seconds=10)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Site:
    """A real server on loopback, and the names that a test's resolver sends there."""

    port: int
    handlers: dict[str, Handler]
    names: dict[str, Sequence[str]] = field(default_factory=lambda: {"www.example.org": ["127.0.0.1"]})
    asked: list[str] = field(default_factory=list)  # paths, as the server got them

    def url(self, path: str = "/", host: str = "www.example.org") -> str:
        return f"http://{host}:{self.port}{path}"

    async def lookup(self, host: str, port: int) -> Sequence[str]:
        if host not in self.names:
            raise OSError(f"no such name: {host}")
        return self.names[host]

    def fetcher(self, **changes: Any) -> Fetcher:
        """A fetcher that may reach this server: by the test's own rule."""
        allowed = {"networks": LOOPBACK, "ports": frozenset({self.port})}
        return Fetcher(replace(RULES, **allowed | changes), self.lookup)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site(0, {})

    async def answer(request: web.Request) -> web.StreamResponse:
        site.asked.append(request.path)
        return await site.handlers[request.path](request)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


def says(text: str, content_type: str = "text/plain", **fields: Any) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type, **fields)

    return handler


def leads_to(location: str) -> Handler:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": location})

    return handler


# --- what is reached -------------------------------------------------------------------------------------


async def test_page_of_an_allowed_host_is_fetched_and_redirects_are_followed(site: Site) -> None:
    site.handlers = {"/": leads_to("/moved?a=1#part"), "/moved": says("here")}
    page = await site.fetcher().fetch(site.url())
    assert page.body == b"here"
    assert page.url == site.url("/moved?a=1")


async def test_server_on_loopback_is_not_reached_without_a_rule_for_its_network(site: Site) -> None:
    site.handlers = {"/": says("secret")}
    with pytest.raises(NotAllowed, match="no public address"):
        await site.fetcher(networks=()).fetch(site.url())
    assert site.asked == []


async def test_name_of_which_one_address_is_private_is_refused(site: Site) -> None:
    site.handlers = {"/": says("here")}
    site.names["www.example.org"] = ["127.0.0.1", "10.0.0.1"]
    with pytest.raises(NotAllowed, match=r"10\.0\.0\.1"):
        await site.fetcher().fetch(site.url())
    assert site.asked == [], "not even by the address that is allowed"


async def test_name_that_changes_its_address_between_redirects_is_checked_again(site: Site) -> None:
    site.handlers = {"/": leads_to("/again"), "/again": says("never")}
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])

    async def rebinding(host: str, port: int) -> Sequence[str]:
        return next(answers)

    rules = replace(RULES, networks=LOOPBACK, ports=frozenset({site.port}))
    with pytest.raises(NotAllowed, match="keep credentials"):
        await Fetcher(rules, rebinding).fetch(site.url())
    assert site.asked == ["/"]


async def test_connection_goes_to_the_address_that_was_checked(site: Site) -> None:
    """The name is looked up once, and the connection does not look it up again."""
    site.handlers = {"/": says("here")}
    looked_up: list[str] = []

    async def once(host: str, port: int) -> Sequence[str]:
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["127.0.0.2"]

    rules = replace(RULES, networks=LOOPBACK, ports=frozenset({site.port}))
    assert (await Fetcher(rules, once).fetch(site.url())).body == b"here"
    assert looked_up == ["www.example.org"]


def test_no_socket_is_made_for_an_address_that_is_not_allowed() -> None:
    with pytest.raises(NotAllowed):
        Fetcher(RULES)._socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1/", "http://[::1]/", "http://localhost/", "//evil.test/x", "file:///etc/passwd",
        "ftp://www.example.org/", "http://www.example.org:22/", "http://a:b@www.example.org/", "http://[bad/",
    ],
)  # fmt: skip
async def test_redirect_to_what_is_not_allowed_is_refused(site: Site, location: str) -> None:
    site.handlers = {"/": leads_to(location)}
    with pytest.raises(NotAllowed):
        await site.fetcher(networks=LOOPBACK).fetch(site.url())
    assert site.asked == ["/"]


async def test_circle_of_redirects_ends(site: Site) -> None:
    site.handlers = {"/": leads_to("/")}
    with pytest.raises(NotFetched, match="more than 3 redirects"):
        await site.fetcher(redirects=3).fetch(site.url())
    assert len(site.asked) == 4


@pytest.mark.parametrize(
    "url",
    [
        "http://evil.test/", "http://example.org.evil.test/", "http://notexample.org/", "example.org",
        "http://example.org@evil.test/", "http://2130706433/", "http://0x7f.1/", "http://127.1/",
        "http://127.0.0.1/", "http://[::ffff:127.0.0.1]/", "javascript:alert(1)", "http://example.org:8080/",
        "http://exa mple.org/", "http://example.org\\@evil.test/", "http:///x", "", "http://example.org/" + "a" * 3_000,
    ],
)  # fmt: skip
def test_address_beyond_the_rules_is_refused(url: str) -> None:
    with pytest.raises(NotAllowed):
        checked(url, RULES)


@pytest.mark.parametrize(
    "url", ["https://example.org/a?b=c", "http://EXAMPLE.org./", "https://a.b.example.org:443"]
)
def test_address_within_the_rules_is_taken(url: str) -> None:
    rules = replace(RULES, hosts=("example.org", "*.example.org"))
    assert (checked(url, rules).host or "").endswith(("example.org", "example.org."))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "168.63.129.16", "::", "::1", "fc00::1",
        "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:0:7f00:1::", "::127.0.0.1", "fd00:ec2::254", "not an address",
    ],
)  # fmt: skip
def test_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(NotAllowed):
        check_address(address, ())


@given(st.ip_addresses())
def test_address_is_taken_only_when_it_is_global(address: Any) -> None:
    try:
        check_address(str(address), ())
    except NotAllowed:
        return
    assert address.is_global
    assert not address.is_loopback
    assert not address.is_private


def test_no_setting_opens_the_addresses_of_credentials() -> None:
    everything = networks("0.0.0.0/0, ::/0")
    check_address("127.0.0.1", everything)
    for address in ("169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "168.63.129.16"):
        with pytest.raises(NotAllowed, match="keep credentials"):
            check_address(address, everything)


# --- what comes back -------------------------------------------------------------------------------------


async def test_page_beyond_the_cap_is_refused_told_or_not(site: Site) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(b"x" * 10_000)

    site.handlers = {"/told": says("x" * 5_000), "/endless": endless}
    for path in ("/told", "/endless"):
        with pytest.raises(NotAllowed, match="GOALWRIGHT_WEB_MAX_BYTES"):
            await site.fetcher(max_bytes=4_000).fetch(site.url(path))


async def test_server_that_never_ends_is_left_when_the_time_is_up(site: Site) -> None:
    over = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await over.wait()
        return web.Response()

    site.handlers = {"/": slow}
    with pytest.raises(NotFetched, match="did not come within") as late:
        await site.fetcher(seconds=0.3).fetch(site.url())
    over.set()
    assert late.value.retryable


async def test_compressed_answer_is_refused_before_it_is_unpacked(site: Site) -> None:
    async def bomb(_: web.Request) -> web.StreamResponse:
        body = gzip.compress(b"0" * 1_000_000)
        return web.Response(body=body, headers={"Content-Encoding": "gzip", "Content-Type": "text/plain"})

    site.handlers = {"/": bomb}
    with pytest.raises(NotAllowed, match="compressed"):
        await site.fetcher().fetch(site.url())


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", "application/pdf"])
async def test_what_is_no_text_is_refused(site: Site, content_type: str) -> None:
    site.handlers = {"/": says("x", content_type)}
    with pytest.raises(NotAllowed, match="content type"):
        await site.fetcher().fetch(site.url())


@pytest.mark.parametrize(("status", "retryable"), [(404, False), (403, False), (429, True), (503, True)])
async def test_refusal_of_the_server_says_whether_to_try_again(
    site: Site, status: int, retryable: bool
) -> None:
    site.handlers = {"/": says("no", status=status)}
    with pytest.raises(NotFetched, match=str(status)) as refused:
        await site.fetcher().fetch(site.url())
    assert refused.value.retryable is retryable


async def test_request_carries_no_cookie_and_no_header_of_ours(site: Site) -> None:
    seen: list[dict[str, str]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(dict(request.headers))
        return web.Response(status=302, headers={"Location": "/", "Set-Cookie": "a=b; Path=/"})

    site.handlers = {"/": handler}
    with pytest.raises(NotFetched):
        await site.fetcher(redirects=2).fetch(site.url())
    assert {name for headers in seen for name in headers} == {
        "Host",
        "Accept",
        "Accept-Encoding",
        "User-Agent",
        "Connection",
    }


def test_html_becomes_the_text_that_a_reader_sees() -> None:
    html = """<html><head><title>Ti&amp;tle</title><style>b{}</style></head><body><h1>One</h1>
    <script>alert("<p>no</p>")</script><p>Two <b>three</b><a href="/x">link</a><a href="#y">up</a></p>
    <table><tr><td>a</td><td>b</td></tr></table></body>"""
    assert text_of(html) == "Ti&tle\nOne\nTwo threelink [/x]up\n\ta\tb\n"


# --- the lane --------------------------------------------------------------------------------------------


def work(**fields: Any) -> Work:
    facts = {"key": "page", "lane": "tool.web", "outputs": [OutputSpec(name="page")]}
    spec = TaskSpec(**facts | fields)
    return Work(goal_id="g", task_id="1", epoch=1, lane="tool.web", spec=spec)


async def performed(site: Site, task: Work) -> Done | Failed:
    attempt = Attempt(task, None, MemoryArtifacts(), None)  # type: ignore[arg-type]  # nothing is asked or logged
    outcome = await Web(site.fetcher()).perform(task, attempt)
    assert isinstance(outcome, Done | Failed)
    return outcome


async def test_page_is_an_artifact_that_is_not_private(site: Site) -> None:
    site.handlers = {"/": says("<p>Grüße\0</p>", "text/html", charset="latin-1")}
    done = await performed(site, work(params={"url": site.url()}))
    assert isinstance(done, Done)
    page = done.outputs["page"]
    assert (page.inline, page.private, page.type) == ("Grüße\N{REPLACEMENT CHARACTER}\n", False, "text")
    assert "text/html" in done.summary


async def test_refusals_say_what_was_wrong_and_are_not_tried_again(site: Site) -> None:
    failed = await performed(site, work(params={"url": "http://10.0.0.1/"}))
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.retryable) == ("url_refused", False)
    assert "not among the allowed hosts" in failed.error.message
    bad = await performed(site, work(params={}))
    assert isinstance(bad, Failed)
    assert bad.error.code == "bad_task"


def test_lane_is_there_only_when_hosts_are_allowed() -> None:
    assert [lane.name for lane in lanes(ExecutorSettings())] == ["exec"]
    assert len(build(ExecutorSettings(), Stopper())) + 1 == len(
        build(ExecutorSettings(web_hosts="*"), Stopper())
    )
    [_, lane] = lanes(ExecutorSettings(web_hosts="example.org, *.example.org"))
    assert lane.name == "tool.web"
    assert "example.org" in lane.description


def test_settings_that_cannot_be_read_are_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="web"):
        ExecutorSettings(web_hosts="*", web_networks="10.0.0.0/99")
