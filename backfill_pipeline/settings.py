"""What the environment says: which ledger, and where this product keeps its own files.

Belongs here: reading and checking environment variables, their defaults, and the places under `BACKFILL_HOME`.
Does not: what a source file or a run says (`mapping/`), connecting to anything, creating anything but directories.
"""

import base64
import binascii
import hashlib
import os
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from backfill_pipeline.errors import SettingsError

_URL_SCHEME = re.compile(r"^(postgres|postgresql)(\+[a-z0-9]+)?$")
_PACKAGE_DIR = Path(__file__).resolve().parent
_MAIL_ADDRESS = re.compile(r"[^\s@<>,;:\"()]+@[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
# Of the specification of Standard Webhooks: 24 to 64 bytes, as Base64, behind this prefix.
_WEBHOOK_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every such secret begins with
_WEBHOOK_SECRET_BYTES: Final = range(24, 65)


def checkout_dir() -> Path | None:
    """The repository that this package runs from, or None when it is installed without one."""
    root = _PACKAGE_DIR.parent
    return root if (root / "pyproject.toml").is_file() and (root / "data" / "sources").is_dir() else None


def default_home() -> Path:
    """A place of its own per checkout (or per Python environment, when there is no checkout).

    As root it is below /var/lib and never below a home directory: the database server runs as an unprivileged user
    then, who must be able to walk to its data, and nobody's home should be opened for that.
    """
    anchor = checkout_dir() or Path(sys.prefix)
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", anchor.name) or "root"
    name = f"{readable}-{hashlib.sha256(os.fsencode(anchor)).hexdigest()[:8]}"
    if os.geteuid() == 0:
        return Path("/var/lib/ledger-backfill") / name
    data_home = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification: a relative XDG_DATA_HOME is invalid and has to be ignored.
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return base / "ledger-backfill" / name


def default_sources_dir() -> Path:
    """`data/sources` of the checkout, or of the current directory when there is no checkout."""
    return (checkout_dir() or Path.cwd()) / "data" / "sources"


def default_inbox_dir() -> Path:
    """`data/inbox` of the checkout, or of the current directory when there is no checkout."""
    return (checkout_dir() or Path.cwd()) / "data" / "inbox"


def _check_database_url(value: SecretStr) -> SecretStr:
    # The messages describe and never quote: a mistyped URL often has its password in the wrong place.
    try:
        scheme = urlsplit(value.get_secret_value()).scheme
    except ValueError:
        raise ValueError("is not a URL; percent-encode special characters of user and password") from None
    if not _URL_SCHEME.fullmatch(scheme):
        raise ValueError("must look like postgresql://user:password@host:5432/database")
    return value


def _expand_path(value: object) -> object:
    return os.path.abspath(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def _check_directory(value: Path) -> Path:
    # os.path and not Path: an unreadable parent makes Path.exists() raise instead of answering.
    if os.path.lexists(value) and not os.path.isdir(value):
        raise ValueError(f"is {value}, which is not a directory: name one, or a place where one can be made")
    return value


def _split(value: SecretStr) -> SplitResult:
    """A URL that is one, with a host and a port that is a number; the messages never quote it."""
    text = value.get_secret_value()
    try:
        parts = urlsplit(text)
        port_is_right = parts.port is None or parts.port > 0  # asking for it raises where it is none
    except ValueError:
        raise ValueError("is not a URL; percent-encode special characters in it") from None
    if not parts.hostname or not port_is_right or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError("is not a URL with a host and without spaces")
    return parts


def _check_web_url(value: SecretStr) -> SecretStr:
    if _split(value).scheme not in ("http", "https"):
        raise ValueError("must begin with https:// (or http://, where nobody else can listen)")
    return value


def _check_slack_url(value: SecretStr) -> SecretStr:
    parts = _split(value)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        raise ValueError("must begin with https://, for whoever reads it can write to the channel")
    return _check_web_url(value)


def _check_ui_url(value: str) -> str:
    _check_web_url(SecretStr(value))
    return value.rstrip("/")


def _check_smtp_url(value: SecretStr) -> SecretStr:
    if _split(value).scheme not in ("smtp", "smtps"):
        raise ValueError("must look like smtp://user:password@host:587, or smtps://… for TLS from the start")
    return value


def _check_webhook_secret(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    try:
        key = base64.b64decode(text.removeprefix(_WEBHOOK_SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not text.startswith(_WEBHOOK_SECRET_PREFIX) or len(key) not in _WEBHOOK_SECRET_BYTES:
        raise ValueError(
            f"must be {_WEBHOOK_SECRET_PREFIX} and 24 to 64 bytes as Base64: whsec_$(openssl rand -base64 32)"
        )
    return value


def _split_addresses(value: object) -> object:
    return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value


def _check_address(value: str) -> str:
    if not _MAIL_ADDRESS.fullmatch(value):
        raise ValueError("must be addresses such as ledger@example.org, with commas between several")
    return value


_DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]
_Directory = Annotated[Path, BeforeValidator(_expand_path), AfterValidator(_check_directory)]
_Address = Annotated[str, AfterValidator(_check_address)]


class Settings(BaseSettings):
    """The product's environment variables, checked. Read them with `load_settings()`.

    Attributes:
        ledger_database_url: the ledger's PostgreSQL; None means the embedded one below `home`.
        dagster_database_url: where Dagster keeps its records; None means `<database>_dagster` beside the ledger's, or
            `dagster` on the embedded server.
        home: the one directory for everything that this product writes; deleting it is a clean start.
        sources_dir: the directory of source definitions.
        inbox_dir: the directory that is watched for new files; it need not exist.
        inbox_settle_s: seconds for which a file there must have been as it is to be taken for complete.
        plots: whether what a run shows in the UI has pictures as well; the figures are there in any case.
    """

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    ledger_database_url: _DatabaseUrl | None = Field(default=None, validation_alias="LEDGER_DATABASE_URL")
    dagster_database_url: _DatabaseUrl | None = Field(
        default=None, validation_alias="BACKFILL_DAGSTER_DATABASE_URL"
    )
    home: _Directory = Field(default_factory=default_home, validation_alias="BACKFILL_HOME")
    sources_dir: _Directory = Field(
        default_factory=default_sources_dir, validation_alias="BACKFILL_SOURCES_DIR"
    )
    inbox_dir: _Directory = Field(default_factory=default_inbox_dir, validation_alias="BACKFILL_INBOX_DIR")
    inbox_settle_s: int = Field(default=60, ge=1, le=86_400, validation_alias="BACKFILL_INBOX_SETTLE_S")
    plots: bool = Field(default=True, validation_alias="BACKFILL_PLOTS")

    @property
    def postgres_dir(self) -> Path:
        """Data, log and socket of the embedded PostgreSQL."""
        return self.home / "postgres"

    @property
    def dagster_dir(self) -> Path:
        """Dagster's files: compute logs, artifacts, schedules. `dagster.yaml` names the same directory."""
        return self.home / "dagster"

    @property
    def intermediates_dir(self) -> Path:
        """Arrow files between the stages, by source, stage and partition."""
        return self.home / "intermediates"

    @property
    def rejects_dir(self) -> Path:
        """CSV files of rejected rows, by source."""
        return self.home / "rejects"

    @property
    def registered_sources_dir(self) -> Path:
        """Copies of source definitions that were run by path, so that the UI knows them too."""
        return self.home / "sources"

    def prepare_home(self) -> None:
        """Creates `home` and its directories where missing.

        What holds ledger data is for the owner's eyes only (0700). `home` itself can be walked through but not
        listed (0711), because the server of a root user runs as another user. Existing directories stay as they are.

        Raises:
            SettingsError: a directory cannot be created.
        """
        try:
            make_walkable_dir(self.home)
            for directory in (
                self.dagster_dir,
                self.intermediates_dir,
                self.rejects_dir,
                self.registered_sources_dir,
            ):
                directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"BACKFILL_HOME {self.home} cannot be prepared ({error.strerror} at {error.filename}): "
                "set BACKFILL_HOME to a directory that you may write to."
            ) from error


def make_walkable_dir(path: Path) -> None:
    """Creates `path` and its missing parents with mode 0711, whatever the umask; existing ones are not touched."""
    if path.is_dir():
        return
    if path.parent != path:
        make_walkable_dir(path.parent)
    try:
        path.mkdir(mode=0o711)
    except FileExistsError:  # another process of ours was faster
        return
    path.chmod(0o711)  # mkdir's mode is subject to the umask, and root's may be 077


class AlertSettings(BaseSettings):
    """The environment variables of alerts, checked. Read them with `load_alert_settings()`.

    They are apart from the others so that a mistyped address of a mail stops no backfill.

    Attributes:
        webhook_url: takes alerts as JSON; None means no webhook.
        webhook_secret: signs what is sent there, after the specification of Standard Webhooks.
        slack_webhook_url: an incoming webhook of Slack; None means no Slack.
        email_to: who gets mail; empty means nobody.
        email_from: the sender of mail.
        smtp_url: the server that takes mail, with user and password where it wants them.
        ui_url: where people open the UI; alerts link to it.
        rejects_max: rows of a source that may be rejected or conflicts before an alert; None means any number.
        reject_rate_max: the share of all rows that may be, from 0 to 1.
        stalled_after_s: seconds without a checkpoint after which a source in progress has stalled.
    """

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    webhook_url: Annotated[SecretStr, AfterValidator(_check_web_url)] | None = Field(
        default=None, validation_alias="BACKFILL_ALERT_WEBHOOK_URL"
    )
    webhook_secret: Annotated[SecretStr, AfterValidator(_check_webhook_secret)] | None = Field(
        default=None, validation_alias="BACKFILL_ALERT_WEBHOOK_SECRET"
    )
    slack_webhook_url: Annotated[SecretStr, AfterValidator(_check_slack_url)] | None = Field(
        default=None, validation_alias="BACKFILL_ALERT_SLACK_WEBHOOK_URL"
    )
    email_to: Annotated[tuple[_Address, ...], NoDecode, BeforeValidator(_split_addresses)] = Field(
        default=(), validation_alias="BACKFILL_ALERT_EMAIL_TO"
    )
    email_from: _Address | None = Field(default=None, validation_alias="BACKFILL_ALERT_EMAIL_FROM")
    smtp_url: Annotated[SecretStr, AfterValidator(_check_smtp_url)] | None = Field(
        default=None, validation_alias="BACKFILL_ALERT_SMTP_URL"
    )
    ui_url: Annotated[str, AfterValidator(_check_ui_url)] | None = Field(
        default=None, validation_alias="BACKFILL_ALERT_UI_URL"
    )
    rejects_max: int | None = Field(default=None, ge=0, validation_alias="BACKFILL_ALERT_REJECTS_MAX")
    reject_rate_max: Decimal = Field(
        default=Decimal("0.01"), ge=0, le=1, validation_alias="BACKFILL_ALERT_REJECT_RATE_MAX"
    )
    stalled_after_s: int = Field(
        default=3_600, ge=60, le=604_800, validation_alias="BACKFILL_ALERT_STALLED_AFTER_S"
    )


_AnySettings = TypeVar("_AnySettings", bound=BaseSettings)


def load_settings() -> Settings:
    """Reads the environment.

    Raises:
        SettingsError: a variable has a value that cannot be used; the message names it and never holds a password.
    """
    return _read(Settings)


def load_alert_settings() -> AlertSettings:
    """Reads the environment's settings of alerts.

    Raises:
        SettingsError: a variable has a value that cannot be used, or one is set without another that it needs; the
            message names it and never holds a secret.
    """
    settings = _read(AlertSettings)
    of_mail = {
        "BACKFILL_ALERT_EMAIL_TO": settings.email_to,
        "BACKFILL_ALERT_EMAIL_FROM": settings.email_from,
        "BACKFILL_ALERT_SMTP_URL": settings.smtp_url,
    }
    missing = [name for name, value in of_mail.items() if not value]
    if missing and len(missing) < len(of_mail):
        raise SettingsError(
            f"The environment variable {missing[0]} is not set, and mail needs all three of {', '.join(of_mail)}."
        )
    if settings.webhook_secret is not None and settings.webhook_url is None:
        raise SettingsError(
            "The environment variable BACKFILL_ALERT_WEBHOOK_URL is not set, and BACKFILL_ALERT_WEBHOOK_SECRET is of no"
            " use without it."
        )
    return settings


def _read(kind: type[_AnySettings]) -> _AnySettings:
    try:
        return kind()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        variable = str(first["loc"][0]) if first["loc"] else "the environment"
        # Our own reasons continue the sentence. Pydantic's ("Input should be a valid integer") do not.
        reason = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise SettingsError(f"The environment variable {variable} {reason}.") from None
