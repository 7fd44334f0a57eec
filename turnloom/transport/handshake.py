"""Diagnose a failed connection: probe the address with TLS directly, after gRPC has given up."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from turnloom.errors import InvalidInput

SECONDS: Final = 2.0  #: for each step of the look
_REASONS: Final = {"KEY_VALUES_MISMATCH": "the key is not that of the certificate"}  #: by OpenSSL's name


@dataclass(frozen=True, slots=True)
class TlsFault:
    """What is wrong and what to do about it."""

    sentence: str
    hint: str


def check_files(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Refuse PEM files that gRPC would take without a word and then fail every connection with.

    Raises:
        InvalidInput: names the file.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"{ca}: holds no certificate in PEM form.", hint="Name the file of the server's authority."
            ) from error
    if certificate is None or key is None:
        return
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")  # without it OpenSSL asks at the terminal
    except ssl.SSLError as error:
        said = _REASONS.get(error.reason or "", "hold no certificate and key in PEM form without a passphrase")
        raise InvalidInput(
            f"{certificate} and {key}: {said}.", hint="Name a certificate and its own key, not encrypted."
        ) from error


def without_tls(address: str) -> TlsFault | None:
    """Return what is wrong if the server speaks TLS to a plain-text client; None: it does not, or can't be reached."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # sends no data; only checks whether it answers
    context.set_alpn_protocols(["h2"])
    try:
        with _connected(address) as plain, context.wrap_socket(plain):
            pass
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):  # an alert is TLS too
            return None
    except (OSError, ValueError):
        return None
    return TlsFault(
        f"The server at {address} speaks TLS, and was called without.",
        "Give --tls, and --tls-ca with the authority's file if it is not one that the system knows.",
    )


def with_tls(address: str, ca: Path | None, certificate: Path | None, key: Path | None) -> TlsFault | None:
    """Return what is wrong with a TLS connection; None: the probe finds nothing, or the server can't be reached."""
    context = ssl.create_default_context(cafile=ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # from Python 3.13 on; gRPC takes what it would refuse
    context.set_alpn_protocols(["h2"])
    try:
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        host = address.rpartition(":")[0].strip("[]")
        with _connected(address) as plain, context.wrap_socket(plain, server_hostname=host) as secured:
            if secured.recv(1):  # the server's first data; one that requires a certificate hangs up instead
                return None
    except ssl.SSLCertVerificationError as error:
        said = error.verify_message.rstrip(".")
        return TlsFault(
            f"The certificate of the server at {address} is not trusted: {said}.",
            "Give the file of its authority with --tls-ca, and call it by a name that is in the certificate.",
        )
    except ssl.SSLError as error:
        reason = error.reason or ""
        if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER" in reason:
            return TlsFault(f"The server at {address} does not speak TLS.", "Leave --tls and --tls-* out.")
        if "ALERT" not in reason:
            return None
    except (OSError, ValueError):
        return None
    return _turned_away(address, shown=certificate is not None)


def _turned_away(address: str, *, shown: bool) -> TlsFault:
    if shown:
        return TlsFault(
            f"The server at {address} refuses this client's certificate.",
            "Give one of an authority that the server knows, with --tls-cert and --tls-key.",
        )
    return TlsFault(f"The server at {address} wants a client's certificate.", "Give --tls-cert and --tls-key.")


def _connected(address: str) -> socket.socket:
    """Open a connection; raises OSError, or ValueError for an address not of the form HOST:PORT."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS)
