"""TLS and mTLS of the server from PEM files, which may be renewed while it runs."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.preprocess.settings import ApiSettings
from services.variables import BadSetting

LOG = logging.getLogger("turnloom.api")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of the PEM files."""

    certificate: Path  #: of the server, with the chain above it
    key: Path
    client_ca: Path | None  #: authorities of clients; None: clients need no certificate


def tls_files(settings: ApiSettings) -> TlsFiles | None:
    """Return the checked TLS files that the settings name, or None without TLS.

    Raises:
        BadSetting: one is missing, can't be read, or they do not belong together.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        if settings.tls_cert or settings.tls_key or settings.tls_client_ca:
            raise BadSetting(
                "TLS needs both TURNLOOM_TLS_CERT and TURNLOOM_TLS_KEY; set both, or none of TURNLOOM_TLS_*."
            )
        return None
    files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    check(files)
    return files


def check(files: TlsFiles) -> None:
    """Check that the files can be used.

    Raises:
        BadSetting
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, path in (("CERT", files.certificate), ("KEY", files.key), ("CLIENT_CA", files.client_ca)):
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise BadSetting(
                f"TURNLOOM_TLS_{name}: {path} can't be read ({error.strerror}); name a PEM file that can be."
            ) from error
    try:
        context.load_cert_chain(files.certificate, files.key, password="")  # never ask a terminal
    except (ssl.SSLError, ValueError) as error:
        raise BadSetting(
            f"TURNLOOM_TLS_CERT and TURNLOOM_TLS_KEY: {files.certificate} and {files.key} don't fit each other; "
            "give a PEM certificate and its own key, without a passphrase."
        ) from error
    try:
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
    except ssl.SSLError as error:
        raise BadSetting(
            f"TURNLOOM_TLS_CLIENT_CA: {files.client_ca} holds no PEM certificate; name a file with one."
        ) from error


class _Renewing:
    """Gives gRPC the current files at each handshake; broken files are reported once and not used."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._look()

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """Return the configuration from the current files."""
        pair = (self._files.key.read_bytes(), self._files.certificate.read_bytes())
        ca = None if self._files.client_ca is None else self._files.client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=ca)

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        """Answer gRPC at a handshake; None means nothing changed."""
        seen = self._look()
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            check(self._files)
            renewed = self.configuration()
        except (BadSetting, OSError) as error:
            LOG.error("renewed TLS files can't be used; the old ones stay", extra={"reason": str(error)})
            return None
        LOG.info("TLS files were read again")
        return renewed

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_state(path) for path in (self._files.certificate, self._files.key, self._files.client_ca))


def _state(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return the credentials of a secure port; with client_ca, every client needs a certificate from it."""
    renewing = _Renewing(files)
    return grpc.dynamic_ssl_server_credentials(
        renewing.configuration(),
        renewing,  # type: ignore[arg-type]  # gRPC's types forget that None says: as before
        require_client_authentication=files.client_ca is not None,
    )
