"""Names of patients, studies and series that lead back to nobody without the salt."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

import attrs

from bigrun.errors import UsageError

__all__ = ["Pseudonyms", "default_salt_file", "load_salt"]

SALT_BYTES = 32
FEWEST_BYTES = 16
DIGITS = 16
"""64 bits: among a million series the chance that two share a name is 3e-8."""


@attrs.frozen
class Pseudonyms:
    """Keyed hashes (HMAC-SHA256) of identifiers. Whoever lacks the salt cannot try identifiers one by one."""

    salt: bytes = attrs.field(repr=False)

    def of(self, kind: str, identifier: str) -> str:
        """16 hexadecimal digits; the same identifier has another pseudonym as a patient than as a study."""
        return self.digest(kind, identifier)[:DIGITS]

    def digest(self, kind: str, *texts: str) -> str:
        """64 hexadecimal digits of several texts, none of which can run into the next."""
        message = "".join(f"{len(text)}:{text}" for text in (kind, *texts))
        return hmac.new(self.salt, message.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def default_salt_file() -> Path:
    """`$XDG_CONFIG_HOME/bigrun/import-salt`: one for all imports of a user, so that a patient stays one patient."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "bigrun" / "import-salt"


def load_salt(path: Path, out: Path) -> bytes:
    """The salt of a file, which is made (mode 600) where there is none.

    Raises:
        UsageError: the file is below `out`, may be read by others, is too short, or cannot be read or made.
    """
    if path.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"{path}: the salt must not be in the data set ({out}): whoever has both can look patients up")
    try:
        make(path)
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            salt = file.read().strip()
    except OSError as error:
        raise UsageError(f"{path}: the salt cannot be read or made: {error.strerror}") from None
    if mode & 0o077:
        raise UsageError(f"{path}: others may read the salt (mode {mode:03o}); expected mode 600: chmod 600 {path}")
    if len(salt) < FEWEST_BYTES:
        raise UsageError(
            f"{path}: the salt has {len(salt)} bytes, expected at least {FEWEST_BYTES}; name a file that is not there, "
            "and a salt is made"
        )
    return salt


def make(path: Path) -> None:
    """A new random salt, whole or not at all, unless there is a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SALT_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: its salt counts
            os.link(draft, path)
    finally:
        draft.unlink()
