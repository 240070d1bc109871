"""What a live source may need to be let in: user name, password, certificates."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from edge_producer.settings import EdgeSettings
from schemas.errors import SourceLostError


@dataclass(frozen=True)
class SourceAccess:
    """Credentials as the settings name them; files are read anew for each connection.

    Attributes:
        password_file: Its first line is the password.
        ca: Authorities that may vouch for the source; None: the system's.
        cert: Client certificate, with ``key``.
    """

    username: str = ""
    fixed_password: str = ""
    password_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __repr__(self) -> str:
        """Without the password: it may stand in a log."""
        return f"SourceAccess(username={self.username!r})"

    @classmethod
    def of(cls, settings: EdgeSettings) -> SourceAccess:
        """As the settings say."""
        secret = settings.source_password
        return cls(
            username=settings.source_username,
            fixed_password="" if secret is None else secret.get_secret_value(),
            password_file=settings.source_password_file,
            ca=settings.source_ca,
            cert=settings.source_cert,
            key=settings.source_key,
        )

    def password(self) -> str | None:
        """The password; None where there is none.

        Raises:
            SourceLostError: The file cannot be read.
        """
        if self.password_file is None:
            return self.fixed_password or None
        try:
            lines = self.password_file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as exc:
            raise SourceLostError(f"{self.password_file} cannot be read: {exc}") from exc
        return lines[0] if lines else None

    def tls(self) -> ssl.SSLContext:
        """What checks the source's certificate and name, and shows the device's certificate if there is one.

        Raises:
            SourceLostError: A file cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as exc:
            raise SourceLostError(f"the certificates of the source cannot be read: {exc}") from exc
        return context
