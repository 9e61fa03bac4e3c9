"""Signatures of segments and of `head.json`: who may publish to an archive, for clients that trust some keys only.

Off unless keys are given. `MMMETA_SIGNING_KEY` makes a publisher sign; `MMMETA_TRUSTED_KEYS`, or the file `trusted_keys` in
a metadir, makes a metadir take nothing that is not signed by one of them. Ed25519 of the package `cryptography`, which is
imported only then. docs/format.md has the signed bytes, docs/signing.md what this is good for and what not.

A private key is in no message, log or repr; what an environment variable holds is not shown either.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import orjson

from mmmeta_core.errors import ConfigError, SignatureError
from mmmeta_core.limits import RATIO_FROM, cap, check
from mmmeta_core.trouble import WAYS_OUT

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNING_KEY: Final = "MMMETA_SIGNING_KEY"
TRUSTED_KEYS: Final = "MMMETA_TRUSTED_KEYS"
KIND: Final = "ed25519"

SEGMENT: Final = b"mmmeta segment 1\n"
HEAD: Final = b"mmmeta head 1\n"

_MAX_BYTES: Final = 1024 * 1024
_UNREADABLE: Final = (OSError, EOFError, zlib.error, ValueError)


@dataclass(frozen=True)
class Signature:
    """64 bytes, and the id of the key that they are said to be of."""

    signature: bytes
    key: str

    @classmethod
    def of(cls, found: object) -> Signature:
        """Read the JSON form. Raises ValueError for what can't be one."""
        text, key = (found.get("signature"), found.get("key")) if isinstance(found, dict) else (None, None)
        if not isinstance(text, str) or not isinstance(key, str) or not _is_key_id(key):
            raise ValueError("its signature is not one")
        raw = base64.b64decode(text, validate=True)
        if len(raw) != 64:
            raise ValueError("its signature has not 64 bytes")
        return cls(raw, key)

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"signature": base64.b64encode(self.signature).decode(), "key": self.key}


class Signer:
    """A private key that signs. Not shown by `repr`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()
        self.key: str = key_id(self.public)

    def __repr__(self) -> str:
        return f"<Signer {self.key}>"

    def sign(self, domain: bytes, digest: bytes) -> Signature:
        """Sign the SHA-256 of some content, of one domain."""
        return Signature(self._private.sign(domain + digest), self.key)


@dataclass(frozen=True)
class TrustedKey:
    """A public key. With `until` it is trusted up to that revision, with `archive` in that archive only."""

    public: bytes
    until: int | None = None
    archive: str | None = None


@dataclass(frozen=True)
class Trust:
    """The keys of which one must have signed whatever is taken."""

    keys: tuple[TrustedKey, ...]
    source: str

    def also(self, signer: Signer | None) -> Trust:
        """Return the same, with this metadir's own key besides."""
        if signer is None or any(key.public == signer.public for key in self.keys):
            return self
        return replace(self, keys=(*self.keys, TrustedKey(signer.public)))

    def check_segment(self, path: Path, name: str) -> None:
        """Raise `SignatureError` unless the segment in the file `path` is signed by a trusted key. Reads all of it."""
        try:
            content = _signed_segment(path)
        except _UNREADABLE as error:
            raise SignatureError(
                f"segment {name} can't be read: {error}; nothing was changed. Restore it from a backup of the archive",
                forged=True,
            ) from error
        self._check(content, f"segment {name}", "")

    def check_head(self, data: bytes, source: str) -> None:
        """Raise `SignatureError` unless these bytes of a `head.json` are signed by a trusted key."""
        try:
            values = orjson.loads(data)
            found = values.pop("signature", None)
            signature = None if found is None else Signature.of(found)
            content = _Content(HEAD, head_digest(values), signature, values["archive"], values["revision"])
        except (*_UNREADABLE, AttributeError, TypeError, KeyError) as error:
            raise SignatureError(f"{source} has no signature that could be: {error}", forged=True) from error
        self._check(content, source, "; a publisher who signs writes it anew once it is removed")

    def _check(self, content: _Content, what: str, mend: str) -> None:
        signature = content.signature
        if signature is None:
            raise SignatureError(
                f"{what} is not signed, but {self.source} says whom to trust; nothing was changed. It was published "
                f"without {SIGNING_KEY}{mend}"
            )
        known = [key for key in self.keys if key_id(key.public) == signature.key]
        if not known:
            raise SignatureError(
                f"{what} is signed with the key {signature.key}, which {self.source} does not trust; nothing was changed. "
                "If that publisher is to be trusted, add its public key there"
            )
        held = [key for key in known if _holds(key, content)]
        if not held:
            raise SignatureError(
                f"{what} is signed with the key {signature.key}, which {self.source} does not trust for revision "
                f"{content.revision} of archive {content.archive!r:.80}; nothing was changed"
            )
        if not any(_is_valid(key.public, signature.signature, content.message) for key in held):
            raise SignatureError(
                f"{what} has a signature that is not of the key {signature.key} that it names: it was changed, or is "
                "that of something else; nothing was changed here. Restore it from a backup of the archive",
                forged=True,
            )


@dataclass(frozen=True)
class _Content:
    """What is signed, and what it says of itself."""

    domain: bytes
    digest: bytes
    signature: Signature | None
    archive: object
    revision: object

    @property
    def message(self) -> bytes:
        return self.domain + self.digest


def key_id(public: bytes) -> str:
    """Return the name of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def public_line(public: bytes) -> str:
    """Return the public key as a line of `trusted_keys`."""
    return f"{KIND} {base64.b64encode(public).decode()}"


def head_digest(values: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of a head's content without its signature: JSON with sorted names and no spaces."""
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).digest()


def load_signer() -> Signer | None:
    """Return the key that `MMMETA_SIGNING_KEY` gives, a file or the PEM text itself; None when it is not set.

    Raises `ConfigError` for a key that can't be used, and for a file that others may read.
    """
    given = os.environ.get(SIGNING_KEY)
    if not given:
        return None
    if "-----BEGIN" in given:
        return Signer(_private_key(given.replace("\\n", "\n").encode()))
    return Signer(_private_key(_private_file(Path(given).expanduser())))


def load_trust(file: Path) -> Trust | None:
    """Return the keys of `MMMETA_TRUSTED_KEYS` (a file, or the keys themselves), else of `file`; None without either.

    Raises `ConfigError` for keys that can't be read, and where there are none: that never means to trust everybody.
    """
    given = os.environ.get(TRUSTED_KEYS)
    if given and f"{KIND} " in given:
        return _trust(given.replace(",", "\n"), TRUSTED_KEYS)
    # What the variable holds is not shown: it may be the wrong key.
    path, name = (
        (Path(given).expanduser(), f"the file that {TRUSTED_KEYS} names") if given else (file, str(file))
    )
    try:
        with path.open("rb") as opened:
            text = opened.read(_MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        if not given:
            return None
        raise ConfigError(
            f"{name} is not there: give the path of one with public keys, or the keys"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        way_out = WAYS_OUT.get(getattr(error, "errno", None) or 0, "correct it, or write it anew")
        raise ConfigError(f"{name} can't be read ({reason}), so nothing is trusted: {way_out}") from None
    return _trust(text, str(path))


def keygen(path: Path) -> str:
    """Write a new private key to the new file `path`, for its owner only, and its public key to `path`.pub.

    Returns the public key's line for `trusted_keys`. Raises `ConfigError` for a file that is there.
    """
    ed25519 = _ed25519()
    from cryptography.hazmat.primitives import serialization

    public_path = path.with_name(path.name + ".pub")
    if public_path.exists():
        raise ConfigError(f"{public_path} is there already: choose another name, a key is never overwritten")
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(
            f"{path} is there already: choose another name, a key is never overwritten"
        ) from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(descriptor)
    line = public_line(private.public_key().public_bytes_raw())
    public_path.write_text(line + "\n", encoding="utf-8")
    return line


def segment_flaw(segment: Path, name: str, trusted_keys: Path) -> str | None:
    """Return what is wrong with the signature of the segment in a file; None if nothing, or if no keys are trusted.

    `name` is what the sentence calls it, `trusted_keys` the metadir's file of that name. Raises `ConfigError`.
    """
    trust = load_trust(trusted_keys)
    if trust is None:
        return None
    try:
        trust.also(load_signer()).check_segment(segment, name)
    except SignatureError as error:
        return str(error)
    return None


def _holds(key: TrustedKey, content: _Content) -> bool:
    in_time = key.until is None or (isinstance(content.revision, int) and content.revision <= key.until)
    return in_time and key.archive in (None, content.archive)


def _is_valid(public: bytes, signature: bytes, message: bytes) -> bool:
    ed25519 = _ed25519()
    from cryptography.exceptions import InvalidSignature

    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signed_segment(path: Path) -> _Content:
    """Read a segment: the hash of all lines but the signature's. Raises what an unreadable file raises."""
    digest, unpacked, packed = hashlib.sha256(), 0, max(path.stat().st_size, 1)
    longest, most, ratio = (
        cap(name) for name in ("MMMETA_MAX_LINE_BYTES", "MMMETA_MAX_UNPACKED_BYTES", "MMMETA_MAX_RATIO")
    )
    with gzip.open(path, "rb") as file:
        header = line = file.readline(longest + 1)
        while following := file.readline(longest + 1):
            unpacked += len(line)
            check(len(following), longest, "bytes in a line")
            check(unpacked, most, "bytes once unpacked")
            if unpacked > RATIO_FROM:
                check(unpacked // packed, ratio, "unpacked bytes for each packed one")
            digest.update(line)
            line = following
    first, last = orjson.loads(header), orjson.loads(line)
    if not isinstance(first, dict) or not isinstance(last, dict):
        raise ValueError("a line is no object")
    signature = Signature.of(last) if "signature" in last else None
    return _Content(SEGMENT, digest.digest(), signature, first.get("archive"), first.get("revision"))


def _trust(text: str, source: str) -> Trust:
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if words:
            try:
                keys.append(_trusted_key(words))
            except ValueError as error:
                raise ConfigError(
                    f"{source}, line {number}: {error}. A line is '{KIND} <public key>', with until=<revision> or "
                    "archive=<id> after it if need be"
                ) from None
    if not keys:
        raise ConfigError(
            f"{source} holds no key, so nothing could be taken: add one, or remove it to trust all"
        )
    return Trust(tuple(keys), source)


def _trusted_key(words: list[str]) -> TrustedKey:
    if len(words) < 2 or words[0] != KIND:
        raise ValueError("no public key")
    public = base64.b64decode(words[1], validate=True)
    if len(public) != 32:
        raise ValueError("a public key has 32 bytes")
    until: int | None = None
    archive: str | None = None
    for word in words[2:]:
        name, _, value = word.partition("=")
        if name == "until" and value.isascii() and value.isdecimal() and len(value) < 20:
            until = int(value)
        elif name == "archive" and value:
            archive = value
        else:
            raise ValueError("an option that is not known")
    return TrustedKey(public, until, archive)


def _private_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no path"
        # Not which file: what is there may be a key that was put in the wrong way.
        raise ConfigError(
            f"the file that {SIGNING_KEY} names can't be read ({reason}): give the path of a private key, or its PEM text"
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"others may read the private key that {SIGNING_KEY} names: chmod 600 it, or make a new one"
        )
    return data


def _private_key(pem: bytes) -> Ed25519PrivateKey:
    _ed25519()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        # Without the cause, which could quote the key.
        raise ConfigError(
            f"{SIGNING_KEY} gives no private Ed25519 key without a password, in PEM: make one with mmmeta keygen"
        ) from None
    return private


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ConfigError("signatures need the package cryptography: pip install 'mmmeta[sign]'") from None
    return ed25519


def _is_key_id(text: str) -> bool:
    return len(text) == 16 and all(character in "0123456789abcdef" for character in text)
