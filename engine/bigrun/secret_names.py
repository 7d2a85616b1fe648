"""Names below which secrets stand: of options, of variables, in the query of a URL."""

from __future__ import annotations

import functools
import re

__all__ = ["ENDINGS", "is_query_secret", "is_secret_name", "is_secret_variable"]

ENDINGS = (
    "token", "password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization",
    "cookie", "apikey", "api_key", "api_keys", "access_key", "account_key", "private_key", "secret_key", "webhook",
    "webhook_url",
)  # fmt: skip
NETWORK_TOKENS = frozenset(
    ("cls", "class", "mask", "storage", "register", "patch", "dist", "distillation", "pad", "bos", "eos", "sep", "unk")
)
# Of an environment variable, anywhere in its name.
VARIABLE = re.compile(r"(?<!MON)KEY(?!BOARD|WORD)|TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD")
HARMLESS_VARIABLES = frozenset(("FILE", "PATH", "DIR", "HOME", "NAME", "TYPE", "SIZE", "COUNT", "LENGTH", "LIMIT"))
QUERY_NAMES = frozenset({"sig", "key", "code"})  # of a URL only, and what ends in "signature"

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@functools.lru_cache(maxsize=4096)  # a run asks some 2,000 times, for the same few hundred names
def is_secret_name(name: str) -> bool:
    """Whether a text below this key is a secret: `HF_TOKEN`, `apiKey`, `X-Api-Key-2`; not `cls_token`, `token_file`."""
    words = [word.lower() for word in WORDS.findall(name)]
    if words[-1:] == ["token"] and words[-2:-1] and words[-2] in NETWORK_TOKENS:
        return False
    joined = "_".join(words)
    return any(joined == ending or joined.endswith(f"_{ending}") for ending in ENDINGS)


@functools.lru_cache(maxsize=4096)
def is_secret_variable(name: str) -> bool:
    """Whether an environment variable holds a secret: `DEPLOY_KEY`, `AWSKEY`, `TOKENS`, `DB_PASSWORD_OLD`; not
    `KEY_FILE`, `TOKENIZERS_PARALLELISM`."""
    words = [word.upper() for word in WORDS.findall(name)]
    if words[-1:] and words[-1] in HARMLESS_VARIABLES:
        return False
    return VARIABLE.search(name.upper()) is not None or is_secret_name(name)


def is_query_secret(name: str) -> bool:
    return name in QUERY_NAMES or name.endswith("signature")
