"""TLS 1.3 that proves node ids: who presents a certificate holds the key that the id is the hash of.

Python's `ssl` has no verify callback, and without a required certificate a client sends none at all. So each node
issues itself a leaf certificate for its node key under a *published* CA key, both sides require a certificate, and
then the SHA-256 of the peer's raw public key is compared with the expected id, before any frame. The CA and the host
names mean nothing; TLS itself (RFC 8446, section 4.4.3) proves possession of the leaf's key.

`Tls` runs the library's engine over memory buffers. That keeps one small protocol class for both kinds of link, lets
many frames share one record and one system call, and saves asyncio's 256 KiB read buffer per connection.
"""

import contextlib
import os
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from titan_overlay.errors import LinkError
from titan_overlay.identity.keys import SigningKey

# Clocks jump, and a node id does not expire: certificates say "always".
_NOT_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_AFTER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

# Published on purpose: anyone may issue under it, so a certificate says nothing but "this is my key".
_CA_KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"titan overlay: a published key, not a secret").digest())
_CA_NAME = "titan-overlay"

_READ_BYTES = 16 * 1024
"""One TLS record; the engine returns no more at a time."""


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(subject: str, public: Ed25519PublicKey, *, authority: bool) -> x509.Certificate:
    raw = public.public_bytes_raw()
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(_CA_NAME))
        .public_key(public)
        .serial_number(int.from_bytes(sha256(raw).digest()[:8], "big") | 1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(_CA_KEY, None)
    )


@contextlib.contextmanager
def _as_file(content: bytes, token_bytes: Callable[[int], bytes]) -> Iterator[str]:
    """A path that `ssl` can load the key from: in memory where the system can, else a private file, gone at once."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("titan-key", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    else:
        import tempfile  # half a megabyte that nodes on Linux do without

        path = os.path.join(tempfile.gettempdir(), f"titan-{token_bytes(16).hex()}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        yield path
    finally:
        os.close(descriptor)
        if not path.startswith("/proc/"):
            os.unlink(path)


class TlsContexts:
    """The two `ssl` contexts of a node: one to accept links with, one to dial with."""

    __slots__ = ("client", "server")

    def __init__(self, key: SigningKey, token_bytes: Callable[[int], bytes]) -> None:
        private = Ed25519PrivateKey.from_private_bytes(key.seed)
        leaf = _certificate(key.id.hex()[:32], private.public_key(), authority=False)
        ca = _certificate(_CA_NAME, _CA_KEY.public_key(), authority=True)
        pem = serialization.Encoding.PEM
        chain = private.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ) + leaf.public_bytes(pem)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with _as_file(chain, token_bytes) as path:
            for context in (self.server, self.client):
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                context.check_hostname = False
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_cert_chain(path)
                context.load_verify_locations(cadata=ca.public_bytes(pem).decode())
        # Links live long; tickets would cost each handshake two messages that nobody uses.
        self.server.num_tickets = 0


class Tls:
    """One end of one TLS connection, without a socket: ciphertext in, plaintext out, and the other way round."""

    __slots__ = ("_engine", "_incoming", "_outgoing", "established")

    def __init__(self, contexts: TlsContexts, *, dialed: bool) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        context = contexts.client if dialed else contexts.server
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_side=not dialed)
        self.established = False

    def handshake(self) -> bool:
        """Go as far as the bytes at hand allow; whether it is complete. `outgoing()` may have something to send.

        Raises:
            LinkError: the peer is not one to talk to (no certificate, wrong version, garbage).
        """
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except (ssl.SSLError, ValueError) as why:
            raise LinkError(f"the TLS handshake failed: {_reason(why)}") from None
        self.established = True
        return True

    def peer_public(self) -> bytes:
        """Raw 32 bytes of the peer's Ed25519 key.

        Raises:
            LinkError: it presented another kind of key.
        """
        certificate = self._engine.getpeercert(binary_form=True)
        try:
            public = x509.load_der_x509_certificate(certificate or b"").public_key()
        except Exception as why:  # whatever a parser of strangers' bytes may raise
            raise LinkError(f"the peer's certificate cannot be read: {type(why).__name__}") from None
        if not isinstance(public, Ed25519PublicKey):
            raise LinkError("the peer's key is not Ed25519")
        return public.public_bytes_raw()

    def feed(self, ciphertext: bytes) -> None:
        """Bytes from the socket."""
        self._incoming.write(ciphertext)

    def read(self) -> list[bytes]:
        """Plaintext of all complete records fed so far.

        Raises:
            LinkError: a broken record, or the peer said goodbye.
        """
        engine, incoming = self._engine, self._incoming
        pieces: list[bytes] = []
        try:
            # Asking whether there is anything left is cheaper than the exception that says there is not.
            # And a buffer for what is there is cheaper than one for a whole record.
            while waiting := incoming.pending + engine.pending():
                piece = engine.read(waiting if waiting < _READ_BYTES else _READ_BYTES)
                if not piece:  # the peer said goodbye: what comes after it would lie here unread for ever
                    raise ssl.SSLZeroReturnError
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not pieces:
                raise LinkError("the peer closed the link") from None
        except ssl.SSLError as why:
            raise LinkError(f"a broken TLS record: {_reason(why)}") from None
        return pieces

    def seal(self, plaintext: bytearray) -> bytes:
        """Ciphertext to send for it (and for whatever the engine has to say).

        Raises:
            LinkError: the engine has given up.
        """
        try:
            sent = self._engine.write(plaintext)
            if sent < len(plaintext):
                # One record a call: the rest goes on where it stopped, without copying.
                with memoryview(plaintext) as rest:
                    while sent < len(rest):
                        sent += self._engine.write(rest[sent:])
        except ssl.SSLError as why:
            raise LinkError(f"TLS cannot send any more: {_reason(why)}") from None
        return self._outgoing.read()

    def outgoing(self) -> bytes:
        """What the engine itself wants sent: handshake, key updates, alerts."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def goodbye(self) -> bytes:
        """The close_notify to send before the socket is closed; empty where TLS never came about."""
        if self.established:
            with contextlib.suppress(ssl.SSLError, ValueError):
                self._engine.unwrap()
        return self.outgoing()


def _reason(why: Exception) -> str:
    return str(getattr(why, "reason", None) or why)
