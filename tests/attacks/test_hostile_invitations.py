"""Private swarms among strangers: false invitations, false inviters, false joiners."""

import asyncio
import base64
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from baremetalrt.core.errors import BareMetalError, IntegrityError, UsageError
from baremetalrt.membership import inviting, join_protocol
from baremetalrt.membership.authority import (
    Membership,
    create_swarm,
    load_authority,
    swarm_names,
    utc_now,
)
from baremetalrt.membership.certificates import (
    Authority,
    certificate_pem,
    issue,
    key_pem,
    new_authority,
    new_key,
    peer_id,
    peer_name,
)
from baremetalrt.membership.invitations import (
    Invitation,
    invite,
    parse_invitation,
    uses_left,
    withdraw,
)
from baremetalrt.membership.inviting import InvitationServer
from baremetalrt.membership.join_protocol import Hello, Issued, Join, Refused
from baremetalrt.membership.joining import Joined, join

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
DER = serialization.Encoding.DER
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname = False
TLS.verify_mode = ssl.CERT_NONE


def run_async(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def inviter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Membership:
    """A swarm; from here on, this process is another machine."""
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "inviter"))
    membership = create_swarm("home")
    monkeypatch.setenv("BMRT_HOME", str(tmp_path / "joiner"))
    return membership


def invited(
    membership: Membership, *ports: int, num_uses: int = 1, expires_in: timedelta = HOUR
) -> Invitation:
    now = utc_now()
    addresses = [f"127.0.0.1:{port}" for port in ports]
    return invite(membership, addresses, expires_at=now + expires_in, num_uses=num_uses, now=now)


async def joined(invitation: Invitation) -> Joined:
    return await join(invitation, now=utc_now())


async def refused(invitation: Invitation) -> BareMetalError:
    """The error of a join that must fail, and must leave nothing behind."""
    with pytest.raises(BareMetalError) as caught:
        await joined(invitation)
    assert swarm_names() == []
    return caught.value


# --- false invitations -----------------------------------------------------------------------------


def content(**changes: Any) -> list[Any]:
    fields = {
        "name": "home",
        "fingerprint": b"f" * 32,
        "addresses": ["127.0.0.1:7000"],
        "token": b"t" * 16,
        "expires_at": 2_000_000_000,
    }
    assert set(changes) <= set(fields)
    return list((fields | changes).values())


def line(body: Any, version: int = 1) -> str:
    data = bytes([version]) + msgspec.msgpack.encode(body)
    return "bmrt-invite:" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_the_lines_below_are_false_in_one_thing_only() -> None:
    """Without their changes, they are invitations."""
    assert parse_invitation(line(content())).addresses == ("127.0.0.1:7000",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bmrt-invite:",
        "bmrt-invite:!!!!",
        "magnet:?xt=urn:btih:" + "0" * 40,
        line(content())[:-3],
        line(content()) + "AAAA",
        line(content())[:40] + "!!!!" + line(content())[40:],
        line(content()).replace("bmrt-invite:", "bmrt-invite:%"),
        line(content(), version=2),
        line([]),
        line({}),
        line([*content(), 1]),
        line(content(name="../../etc")),
        line(content(name="home\n")),
        line(content(name="")),
        line(content(fingerprint=b"f" * 31)),
        line(content(fingerprint="f" * 32)),
        line(content(token=b"")),
        line(content(token=b"t" * 4000)),
        line(content(addresses=[])),
        line(content(addresses=["127.0.0.1:7000"] * 9)),
        line(content(addresses=["127.0.0.1"])),
        line(content(addresses=["127.0.0.1:0"])),
        line(content(addresses=["127.0.0.1:99999"])),
        line(content(addresses=["\x1b[2J:80"])),
        line(content(addresses=["a b:80"])),
        line(content(expires_at=-1)),
        line(content(expires_at=1e9)),
        line(content(expires_at=2**63)),
        "bmrt-invite:" + "A" * 100_000,
        "bmrt-invite:" + "k" * 3000,
    ],
)
def test_a_false_line_is_refused(text: str) -> None:
    """With one error of ours, whatever it holds."""
    with pytest.raises(UsageError) as caught:
        parse_invitation(text)
    assert caught.value.code == "invitation.malformed" and caught.value.hint


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_change_to_a_line_does_harm(data: st.DataObject) -> None:
    """It is refused, or it is a well-formed invitation to somewhere else."""
    text = line(content())
    at = data.draw(st.integers(len("bmrt-invite:"), len(text) - 1))
    changed = text[:at] + data.draw(st.text(max_size=3)) + text[at + 1 :]
    found = None
    with contextlib.suppress(UsageError):
        found = parse_invitation(changed)
    if found is not None:
        assert found.name.replace("-", "").isalnum() and len(found.token) == 16


@run_async
async def test_an_expired_line_calls_nobody(inviter: Membership) -> None:
    """The time is in the line: no need to ask."""
    invitation = invited(inviter, 1, expires_in=-HOUR)
    assert (await refused(invitation)).code == "invitation.expired"


@run_async
async def test_nobody_at_the_address_is_said(inviter: Membership) -> None:
    """Which addresses were tried, and how each failed."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = await refused(invited(inviter, port))
    assert error.code == "invitation.unreachable" and f"127.0.0.1:{port}" in error.message


# --- false inviters --------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def impostor(
    folder: Path,
    shown: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    *said: bytes,
    answer: Callable[[Join], bytes] | None = None,
) -> AsyncIterator[tuple[int, bytearray]]:
    """Shows a certificate, says what it is told to, and notes down all that it hears."""
    pem = folder / "impostor.pem"
    pem.write_bytes(certificate_pem(shown[0]) + key_pem(shown[1]))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    heard = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            for data in said:
                writer.write(data)
            if answer is not None:
                (length,) = struct.unpack(">I", await reader.readexactly(4))
                request = msgspec.msgpack.decode(await reader.readexactly(length), type=Join)
                heard.extend(request.token)
                writer.write(answer(request))
            while data := await reader.read(4096):
                heard.extend(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


def framed(message: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(data)) + data


def hello(authority: x509.Certificate) -> bytes:
    return framed(Hello(authority.public_bytes(DER)))


def certified(
    authority: Authority, *, now: datetime | None = None, is_inviter: bool = True
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = new_key()
    return issue(authority, key.public_key(), now or utc_now(), is_inviter=is_inviter), key


@run_async
async def test_another_authority_learns_nothing(inviter: Membership, tmp_path: Path) -> None:
    """A swarm of the same name, with everything in order, is still another swarm."""
    other = new_authority("home", utc_now())
    async with impostor(tmp_path, certified(other), hello(other.certificate)) as (port, heard):
        error = await refused(invited(inviter, port))
        assert isinstance(error, IntegrityError) and error.source == f"127.0.0.1:{port}"
        assert error.code == "invitation.wrong-authority"
        await asyncio.sleep(0.05)
        assert not heard


@run_async
async def test_the_right_authority_is_shown_by_its_holder_only(
    inviter: Membership, tmp_path: Path
) -> None:
    """Its certificate is public: to show it proves nothing."""
    real = x509.load_pem_x509_certificate(inviter.authority_pem)
    other = new_authority("home", utc_now())
    async with impostor(tmp_path, certified(other), hello(real)) as (port, heard):
        assert (await refused(invited(inviter, port))).code == "invitation.wrong-authority"
        assert not heard


@run_async
async def test_a_member_cannot_answer_for_the_creator(inviter: Membership, tmp_path: Path) -> None:
    """It would take the token, and with it another place in the swarm."""
    real = load_authority(inviter)
    member = certified(real, is_inviter=False)
    async with impostor(tmp_path, member, hello(real.certificate)) as (port, heard):
        error = await refused(invited(inviter, port))
        assert error.code == "invitation.wrong-authority" and "member's" in error.message
        assert not heard


@run_async
async def test_an_expired_inviter_is_refused(inviter: Membership, tmp_path: Path) -> None:
    """A key that was lost a year ago is worth nothing today."""
    real = load_authority(inviter)
    expired = certified(real, now=utc_now() - 366 * DAY)
    async with impostor(tmp_path, expired, hello(real.certificate)) as (port, heard):
        error = await refused(invited(inviter, port))
        assert error.code == "invitation.wrong-authority" and "expired" in error.message
        assert not heard


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 3) + b"\xc1\xc1\xc1",
        framed(Hello(b"not a certificate")),
        framed(Refused("invitation.used")),
        struct.pack(">I", 40_000) + b"\x91" * 40_000,
        struct.pack(">I", 100) + b"short",
    ],
)
@run_async
async def test_whoever_speaks_differently_learns_nothing(
    inviter: Membership, tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage, length bombs, deep nesting, silence."""
    monkeypatch.setattr(join_protocol, "DEADLINE_S", 0.3)
    async with impostor(tmp_path, certified(load_authority(inviter)), said) as (port, heard):
        error = await refused(invited(inviter, port))
        assert error.code in ("invitation.wrong-authority", "invitation.unreachable")
        assert not heard


@run_async
async def test_the_inviter_is_found_behind_false_addresses(
    inviter: Membership, tmp_path: Path
) -> None:
    """An address at home belongs to somebody else elsewhere: the next one is tried."""
    other = new_authority("home", utc_now())
    async with (
        impostor(tmp_path, certified(other), hello(other.certificate)) as (port, heard),
        InvitationServer(inviter, "127.0.0.1") as server,
    ):
        done = await joined(invited(inviter, 1, port, server.port))
        assert done.membership.fingerprint == inviter.fingerprint and not heard


@run_async
async def test_a_useless_answer_is_not_kept(inviter: Membership, tmp_path: Path) -> None:
    """A certificate for another key, from another authority, or none at all."""
    real = load_authority(inviter)
    other = new_authority("home", utc_now())

    def for_another_key(_: Join) -> bytes:
        return framed(Issued(certified(real)[0].public_bytes(DER)))

    def by_another(message: Join) -> bytes:
        key = x509.load_der_x509_csr(message.request).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return framed(Issued(issue(other, key, utc_now()).public_bytes(DER)))

    def garbage(_: Join) -> bytes:
        return framed(Issued(b"garbage"))

    def strange_code(_: Join) -> bytes:
        return framed(Refused("\x1b[2J" * 100))

    for answer in (for_another_key, by_another, garbage, strange_code):
        said = hello(real.certificate)
        async with impostor(tmp_path, certified(real), said, answer=answer) as (port, _):
            error = await refused(invited(inviter, port))
            assert error.code == "invitation.failed" and error.message.isprintable()


@run_async
async def test_an_inviter_that_vanishes_is_said_to_have(
    inviter: Membership, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invitation may be used up by then, which the user needs to know."""
    monkeypatch.setattr(join_protocol, "DEADLINE_S", 0.3)
    real = load_authority(inviter)
    said = hello(real.certificate)
    async with impostor(tmp_path, certified(real), said, answer=lambda _: b"") as (port, _):
        error = await refused(invited(inviter, port))
        assert error.code == "invitation.interrupted" and "new one" in (error.hint or "")


# --- false joiners ---------------------------------------------------------------------------------


@pytest.fixture
def server(inviter: Membership) -> Iterator[InvitationServer]:
    """After every attack, whoever is invited gets in."""
    running = InvitationServer(inviter, "127.0.0.1")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(running.__aenter__(), loop).result(10)
        yield running
        done = asyncio.run(joined(invited(inviter, running.port)))
        assert done.membership.fingerprint == inviter.fingerprint
    finally:
        asyncio.run_coroutine_threadsafe(running.__aexit__(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def answered(port: int, data: bytes, tls: ssl.SSLContext | None = TLS) -> bytes:
    """What comes back after Hello, until the inviter hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        if tls is not None:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            await reader.readexactly(length)
        writer.write(data)
        async with asyncio.timeout(5):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def eventually(fact: Callable[[], bool]) -> None:
    """Waits for what the inviter does after it hung up."""
    async with asyncio.timeout(5):
        while not fact():
            await asyncio.sleep(0.01)


def request(key: Any = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key or new_key(), hashes.SHA256()).public_bytes(DER)


def code(answer: bytes) -> str:
    return msgspec.msgpack.decode(answer[4:], type=Refused).code


@run_async
async def test_a_line_works_once(
    inviter: Membership, server: InvitationServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Who finds it later is told so, and the inviter sees it."""
    invitation = invited(inviter, server.port)
    answer = await answered(server.port, framed(Join(invitation.token, request())))
    assert msgspec.msgpack.decode(answer[4:], type=Issued).certificate
    assert (await refused(invitation)).code == "invitation.used"
    assert "invitation.used" in caplog.text and "127.0.0.1" in caplog.text


@run_async
async def test_one_use_is_one_member_however_fast(
    inviter: Membership, server: InvitationServer
) -> None:
    """Two who have the same line, at the same moment."""
    message = framed(Join(invited(inviter, server.port).token, request()))
    answers = await asyncio.gather(*(answered(server.port, message) for _ in range(4)))
    assert sum(b"issued" in answer for answer in answers) == 1
    assert sum(b"invitation.used" in answer for answer in answers) == 3


@run_async
async def test_a_token_nobody_gave_out_is_refused(
    server: InvitationServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of any length, the empty one too."""
    for token in (b"", b"t" * 16, b"t" * 60_000):
        assert (
            code(await answered(server.port, framed(Join(token, request()))))
            == "invitation.unknown"
        )
    assert caplog.text.count("invitation.unknown") == 3
    # Without a token, nothing else that they sent is looked at.
    assert code(await answered(server.port, framed(Join(b"", b"garbage")))) == "invitation.unknown"


@run_async
async def test_the_inviters_clock_decides(inviter: Membership) -> None:
    """Who sets their own clock back gains nothing."""
    later = InvitationServer(inviter, "127.0.0.1", clock=lambda: utc_now() + 2 * HOUR)
    async with later:
        assert (await refused(invited(inviter, later.port))).code == "invitation.expired"


@run_async
async def test_a_withdrawn_invitation_is_refused(
    inviter: Membership, server: InvitationServer
) -> None:
    """Even while the server still runs for others."""
    invitation = invited(inviter, server.port, num_uses=9)
    withdraw(inviter, invitation.token, utc_now())
    assert (await refused(invitation)).code == "invitation.used"


@run_async
async def test_a_request_chooses_nothing_but_its_key(
    inviter: Membership, server: InvitationServer
) -> None:
    """Neither to be an authority, nor the inviter, nor a name."""
    key = new_key()
    wished = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "admin")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("inviter.swarm")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    message = Join(invited(inviter, server.port).token, wished.public_bytes(DER))
    answer = await answered(server.port, framed(message))
    der = msgspec.msgpack.decode(answer[4:], type=Issued).certificate
    certificate = x509.load_der_x509_certificate(der)
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "CN=*"
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    peer = peer_name(peer_id(key.public_key()))
    assert names.get_values_for_type(x509.DNSName) == ["home", peer]


def forged() -> bytes:
    """A request for a key that its sender does not hold: somebody else's, with a changed signature."""
    der = bytearray(request())
    der[-1] ^= 1
    return bytes(der)


@pytest.mark.parametrize(
    "der",
    [
        lambda: b"",
        lambda: b"\x30\x84\xff\xff\xff\xff",
        lambda: request()[:-10],
        forged,
        lambda: request(ec.generate_private_key(ec.SECP384R1())),
        lambda: request(rsa.generate_private_key(65537, 2048)),
    ],
)
@run_async
async def test_a_bad_request_costs_no_use(
    inviter: Membership, server: InvitationServer, der: Callable[[], bytes]
) -> None:
    """It is refused, and its sender may try again properly."""
    token = invited(inviter, server.port).token
    assert code(await answered(server.port, framed(Join(token, der())))) == "invitation.request"
    assert uses_left(inviter, token) == 1


@run_async
async def test_a_use_is_written_before_the_answer(
    inviter: Membership, server: InvitationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the network or a crash does afterwards gives nobody a second one."""
    left: list[int] = []
    token = invited(inviter, server.port).token
    real = inviting.send

    async def watched(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
        if isinstance(message, Issued):
            left.append(uses_left(inviter, token))
        await real(writer, message)

    monkeypatch.setattr(inviting, "send", watched)
    await answered(server.port, framed(Join(token, request())))
    assert left == [0]


@run_async
async def test_the_last_one_in_is_not_cut_off(
    inviter: Membership, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inviter may end once its invitation is used up, but not before that use is answered."""
    real = inviting.send

    async def slow(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
        await asyncio.sleep(0.2 if isinstance(message, Issued) else 0)
        await real(writer, message)

    monkeypatch.setattr(inviting, "send", slow)
    async with InvitationServer(inviter, "127.0.0.1") as server:
        invitation = invited(inviter, server.port)
        joining = asyncio.create_task(joined(invitation))
        await eventually(lambda: uses_left(inviter, invitation.token) == 0)
    assert (await joining).membership.fingerprint == inviter.fingerprint


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 131_073),
        struct.pack(">I", 0),
        struct.pack(">I", 4) + b"\xff" * 4,
        framed(Hello(b"x")),
        struct.pack(">I", 50_000) + b"\x91" * 50_000,
        struct.pack(">I", 30)
        + msgspec.msgpack.encode({"type": "join", "\x1b[2J\nadmin joined": 1}),
    ],
)
@run_async
async def test_other_messages_are_refused(
    server: InvitationServer, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """By a reason of ours, that quotes nothing of theirs."""
    padded = data if len(data) < 5 else data.ljust(34, b"\0")
    assert code(await answered(server.port, padded)) == "invitation.request"
    assert "invitation.request" in caplog.text
    assert "admin" not in caplog.text and "\x1b" not in caplog.text


@run_async
async def test_only_tls_1_3_is_spoken(
    server: InvitationServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Not the clear, and nothing older."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await answered(server.port, b"", old)
    assert b"hello" not in await answered(server.port, b"GET / HTTP/1.1\r\n\r\n", None)
    await eventually(lambda: caplog.text.count("no TLS 1.3 connection") == 2)


@run_async
async def test_the_slow_are_hung_up_on(
    server: InvitationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte in time is not a message in time."""
    monkeypatch.setattr(join_protocol, "DEADLINE_S", 0.4)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=TLS)
    try:
        for byte in framed(Join(b"t" * 16, request()))[:40]:
            writer.write(bytes([byte]))
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(0.03)
        async with asyncio.timeout(3):
            await reader.read()
    finally:
        writer.close()


@run_async
async def test_a_crowd_does_not_pile_up(
    inviter: Membership, server: InvitationServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Few from one address are heard at once; the others are hung up on."""
    crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
    await eventually(lambda: caplog.text.count("too many connections") == 16)
    for _, writer in crowd:
        writer.close()
    await eventually(lambda: caplog.text.count("no TLS 1.3 connection") == 4)


@run_async
async def test_a_failing_disk_fails_one_join(
    inviter: Membership, server: InvitationServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The joiner is told that it failed, the inviter why."""
    invitation = invited(inviter, server.port)
    records = inviter.folder / "invitations.json"
    intact = records.read_bytes()
    records.write_bytes(b"[{")
    error = await refused(invitation)
    records.write_bytes(intact)
    assert error.code == "invitation.failed" and "swarm.damaged" in caplog.text
