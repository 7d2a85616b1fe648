"""Secrets: what counts as one, and that it is nowhere in what was redacted."""

from __future__ import annotations

import json
import re
import string
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
import tomli
from hypothesis import example, given, settings

from bigrun import option
from bigrun.config import Document, build_config
from bigrun.errors import ConfigError, UsageError
from bigrun.redaction import (
    REDACTED,
    Redactor,
    equal_but_secrets,
    find_redacted,
    is_secret,
    is_secret_name,
    redact_error,
    secrets_of,
)
from bigrun.secret_names import is_secret_variable

SECRET = "hunter2-And-More"
PLAIN = Redactor([])
KNOWING = Redactor([SECRET])

# -- laws -------------------------------------------------------------------------------------------------------------

letters = st.text(string.ascii_letters + string.digits + "-_./+=", min_size=6, max_size=20)
pieces = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["token=", "token: ", '"password": "', "api_key='", "https://", "@", "/", "?sig=", "&key=", " ", "\n", "'", '"',
         "--secret ", "Bearer ", "authorization: basic ", "cls_token: ", REDACTED, "[", "]", "hf_" + 24 * "a", SECRET,
         "eyJ" + 3 * (12 * "x" + "."),
         "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "https://hooks.slack.com/services/T/B/x"]
    ),
)  # fmt: skip
texts = st.lists(pieces, max_size=8).map("".join)
trees = st.recursive(
    st.one_of(texts, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["a", "token", "x_password", "cls_token"]), inner)
    ),
    max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(texts)
@example("BEARER Token=0")
@example("--secret cls_token: Token=0")
@example("--cls_token --token 0")
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = KNOWING.text(text)
    assert KNOWING.text(once) == once


@settings(deadline=None, max_examples=150)
@given(texts, texts, st.sets(letters, min_size=1, max_size=4))
def test_a_known_secret_is_nowhere_in_the_result(before: str, after: str, secrets: set[str]) -> None:
    redactor = Redactor(secrets)
    for secret in secrets:
        for text in (before + secret + after, repr(secret), json.dumps({"x": secret + after})):
            assert not [s for s in secrets if s in redactor.text(text).replace(REDACTED, "\n")]


@settings(deadline=None, max_examples=60)
@given(texts, letters.filter(lambda s: s.isalnum()), texts)
@pytest.mark.parametrize(
    "form",
    ["token={}", "my_password: '{}'", '"api_key": "{}"', "https://user:{}@host/x", "https://h/?sig={}", "--secret {}",
     "Authorization: Bearer {}", "HF_TOKEN={}", "https://{}@host"],
)  # fmt: skip
def test_a_secret_is_not_in_a_text_that_names_it(form: str, before: str, secret: str, after: str) -> None:
    secret = f"Z9{secret}Q7"  # or it may be a part of what stands around it
    if secret not in before + after:
        assert secret not in PLAIN.text(f"{before}\n{form.format(secret)}\n{after}")


@settings(deadline=None, max_examples=150)
@given(trees)
def test_a_redacted_tree_has_the_structure_of_the_tree(tree: Any) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return [shape(inner) for inner in value] if isinstance(value, list) else type(value)

    redacted = KNOWING.value(tree)
    assert shape(redacted) == shape(tree)
    assert KNOWING.value(redacted) == redacted
    assert SECRET not in str(redacted)


@settings(deadline=None, max_examples=150)
@given(st.text(string.ascii_lowercase + " .,\n/0123456789_()", max_size=60))
def test_what_names_no_secret_stays_as_it_is(text: str) -> None:
    assert PLAIN.text(text) == text


@settings(deadline=None, max_examples=100)
@given(texts)
def test_a_text_equals_itself_without_secrets(text: str) -> None:
    assert equal_but_secrets(text, KNOWING.text(text))


@pytest.mark.parametrize(
    "text",
    ["token" * 4000, "a=" * 8000, "https://" * 3000, "https:/" + "a" * 20000, "x-" * 9000, "[redacted]" * 2000,
     "-----BEGIN PRIVATE KEY-----" * 500, "eyJ" * 8000, "?a" * 9000, "token: '" * 2000],
    ids=lambda text: text[:8],
)  # fmt: skip
def test_hostile_texts_take_no_time(text: str) -> None:
    import time

    start = time.process_time()
    PLAIN.text(text)
    equal_but_secrets(text, text + "x")
    assert time.process_time() - start < 2


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["token", "hf_token", "HF_TOKEN", "apiKey", "api_key", "api-key", "X-Api-Key", "WANDB_API_KEY", "password",
     "dbPassword2", "client_secret", "AWS_SECRET_ACCESS_KEY", "Proxy-Authorization", "credentials", "webhook_url",
     "passphrase", "Set-Cookie", "ACCESS_TOKEN_2", "notify.token"],
)  # fmt: skip
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["storage_tokens", "cls_token", "mask_token", "class_token", "token_file", "tokenizer", "PASSWORD_STORE_DIR", "key",
     "monkey", "secretary", "path", "TOKENIZERS_PARALLELISM", "keep_last", "author", ""],
)  # fmt: skip
def test_names_of_harmless_things(name: str) -> None:
    assert not is_secret_name(name)


def test_no_option_of_the_engine_is_a_secret_by_its_name() -> None:
    from typing import get_type_hints

    from bigrun.rules import EngineConfig

    sections = get_type_hints(EngineConfig).values()
    assert not [field.name for cls in sections for field in attrs.fields(cls) if is_secret(field)]


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("https://user:pw@host/data", "https://[redacted]@host/data"),
        ("https://user:p@ss@host/data", "https://[redacted]@host/data"),
        ("/home/me/https:/user:pw@host/data", "/home/me/https:/[redacted]@host/data"),
        ("s3://k:s@bucket/x", "s3://[redacted]@bucket/x"),
        ("https://h/a?x=1&sig=abc%3D&y=2", "https://h/a?x=1&sig=[redacted]&y=2"),
        ("?X-Amz-Signature=ab&X-Amz-Security-Token=cd", "?X-Amz-Signature=[redacted]&X-Amz-Security-Token=[redacted]"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("https://host/image@2x.png", "https://host/image@2x.png"),
        ("401 for token=abc, and on", "401 for token=[redacted], and on"),
        ("{'password': 'a b c', 'x': 1}", "{'password': '[redacted]', 'x': 1}"),
        ("Authorization: Bearer abc.def", "Authorization: [redacted]"),
        ("curl -H 'Bearer abcdefgh1234'", "curl -H 'Bearer [redacted]'"),
        ("run --api-key abc --steps 5", "run --api-key [redacted] --steps 5"),
        ("cls_token: (1, 1, 384)", "cls_token: (1, 1, 384)"),
        *((f"images/passwd: {words}",) * 2 for words in ("no such file (any more)", "cannot be read", "is not a file")),
        ("model.storage_tokens: expected int, got '4'", "model.storage_tokens: expected int, got '4'"),
        ("hf_dinov3_vitl16_pretrain_lvd1689m", "hf_dinov3_vitl16_pretrain_lvd1689m"),
        (f"ghp_{36 * 'a'} is mine", "[redacted] is mine"),
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/services/[redacted]"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMII\nxx==\n-----END RSA PRIVATE KEY-----\nb", "a\n[redacted]\nb"),
    ],
)  # fmt: skip
def test_texts(text: str, redacted: str) -> None:
    assert PLAIN.text(text) == redacted


def test_secrets_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", SECRET)
    monkeypatch.setenv("SOME_THING", "harmless-value")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    assert Redactor.of_environment().text(f"a {SECRET} harmless-value abc") == f"a {REDACTED} harmless-value abc"


def test_an_expected_error_loses_its_secrets() -> None:
    error, other = UsageError(f"x {SECRET}"), ValueError(SECRET)
    redact_error(error, KNOWING)
    redact_error(other, KNOWING)
    assert str(error) == f"x {REDACTED}"
    assert str(other) == SECRET


# -- comparing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (REDACTED, "new", True), ("new", REDACTED, True), (REDACTED, REDACTED, True), (REDACTED, None, False),
        (f"https://{REDACTED}@h/x", "https://me:pw@h/x", True), (f"https://{REDACTED}@h/x", "https://me:pw@h/y", False),
        (f"https://{REDACTED}@h/x", "https://h/x", False), ([REDACTED, 1], ["a", 1], True),
        ([REDACTED, 1], ["a", 2], False), (f"{REDACTED}a{REDACTED}a", "xaya", True), (f"aa{REDACTED}aa", "aaa", False),
        (5, REDACTED, True), (1, 1.0, True), ("a", "b", False),
    ],
)  # fmt: skip
def test_values_are_compared_but_for_secrets(a: Any, b: Any, equal: bool) -> None:
    assert equal_but_secrets(a, b) is equal
    assert equal_but_secrets(b, a) is equal


# -- configurations ---------------------------------------------------------------------------------------------------


@attrs.frozen
class Login:
    user: str = option("me", help="Who.")
    pin: int = option(0, secret=True, help="Number.")


@attrs.frozen
class Options:
    webhook: str | None = option(None, help="By its name.")
    address: str | None = option(None, secret=True, help="Declared.")
    class_word: str = option("cls", help="No secret.")
    pooling_token: str = option("first", secret=False, help="Declared as none.")
    headers: dict[str, str] = attrs.field(factory=dict, metadata={"help": "A table."})
    login: Login = attrs.field(factory=Login, metadata={"help": "A table of options."})
    names: tuple[str, ...] = option((), secret=True, help="Several.")


TABLE = {
    "webhook": "w-" + SECRET, "address": "a", "pooling_token": "last", "names": ["n-" + SECRET, "m"],
    "headers": {"Authorization": "x", "Accept": "y"}, "login": {"user": "you", "pin": 1234},
}  # fmt: skip


def config_of(table: dict[str, Any], **tables: Any) -> Any:
    return build_config(Document("t", "t", {"plugins": {"mine": table}, **tables}), {"mine": Options}, [])


def test_a_configuration_is_written_without_its_secrets() -> None:
    config = config_of(TABLE, data={"path": "https://u:p@h/x"})
    written = tomli.loads(config.to_toml())
    mine = written["plugins"]["mine"]
    assert mine == {
        "webhook": REDACTED, "address": REDACTED, "class_word": "cls", "pooling_token": "last",
        "names": [REDACTED, REDACTED], "headers": {"Authorization": REDACTED, "Accept": "y"},
        "login": {"user": "you", "pin": REDACTED},
    }  # fmt: skip
    assert written["data"]["path"].endswith(f"https:/{REDACTED}@h/x")
    assert config.tables()["plugins"]["mine"]["webhook"] == "w-" + SECRET
    assert set(secrets_of(config.plugins["mine"])) == {"w-" + SECRET, "a", "n-" + SECRET, "m", "x"}
    assert config.redactor().text(f"w-{SECRET} failed") == f"{REDACTED} failed"


def test_a_written_configuration_asks_for_its_secrets() -> None:
    """Used as a preset it would log in with the word `[redacted]`."""
    written = tomli.loads(config_of(TABLE).to_toml())
    with pytest.raises(ConfigError) as caught:
        build_config(Document("t", "t", written), {"mine": Options}, [])
    problems = dict(caught.value.problems)
    assert problems["plugins.mine.webhook"] == (
        "a secret was left out where this was written ([redacted]): give it with --set plugins.mine.webhook=..."
    )
    assert "plugins.mine.headers.Authorization" in problems
    assert dict(find_redacted({"a": {"b": [REDACTED]}})).keys() == {"a.b"}


@pytest.mark.parametrize("value", [12, ["x"], True])
def test_a_secret_of_another_type_is_not_repeated(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of({"address": [SECRET], "webhook": value})
    assert SECRET not in str(caught.value)
    assert "plugins.mine.address: expected string or off, got something else" in str(caught.value)


def test_a_configuration_without_secrets_is_written_as_it_is() -> None:
    config = build_config(Document("t", "t", {"data": {"path": "/data/images"}}), {}, [])
    assert tomli.loads(config.to_toml()) == config.tables()
    assert not re.search(r"redacted", config.to_toml())


# -- command lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bigrun", "run", "x.toml"], ["bigrun", "run", "x.toml"]),
        (["--token", "abc def", "x"], ["--token", REDACTED, "x"]),
        (["-token", "abc"], ["-token", REDACTED]),
        (["--use-token", "--verbose"], ["--use-token", "--verbose"]),
        (["--token=a'b\"c"], [f"--token={REDACTED}"]),
        (["--set", "plugins.x.api_token='a b'"], ["--set", f"plugins.x.api_token={REDACTED}"]),
        (["--set=plugins.x.api_token=a=b"], [f"--set=plugins.x.api_token={REDACTED}"]),
        (["--set", "plugins.x.pin=q9Z"], ["--set", f"plugins.x.pin={REDACTED}"]),
        (["--set", "plugins.x.pin='q9Z'"], ["--set", f"plugins.x.pin={REDACTED}"]),
        (["--set", "model.cls_token=4"], ["--set", "model.cls_token=4"]),
        (["https://me:pw@host/x"], [f"https://{REDACTED}@host/x"]),
        (["-c", f"print('{SECRET}')"], ["-c", f"print('{REDACTED}')"]),
        (["q9Z", "q9Zoo"], [REDACTED, "q9Zoo"]),
    ],
)
def test_a_command_line_is_redacted_word_by_word(words: list[str], expected: list[str]) -> None:
    redactor = Redactor([SECRET, "q9Z"])
    assert redactor.command(words) == expected
    assert redactor.command(expected) == expected


@given(st.lists(texts, max_size=6))
def test_a_redacted_command_has_as_many_words_and_no_secret(words: list[str]) -> None:
    once = KNOWING.command(words)
    assert len(once) == len(words)
    assert SECRET not in "".join(once)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("DEPLOY_KEY", "KEY", "TOKEN_2", "DB_PASSWORD_OLD", "MYTOKEN", "aws_secret",
                                    "PGPASSWORD", "AWS_ACCESS_KEY_ID", "SECRET_SAUCE", "MysqlPassword", "AWSKEY",
                                    "ENCRYPTIONKEY", "AUTH_KEYS", "TOKENS", "TOKENFOO", "apikeys")),
        *((name, False) for name in ("KEYBOARD", "TOKENIZERS_PARALLELISM", "KEY_FILE", "SECRETS_PATH", "PATH", "MONKEY",
                                     "TOKEN_TYPE", "HOME", "")),
    ],
)  # fmt: skip
def test_variables_that_hold_secrets_are_known_by_their_names(
    name: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_secret_variable(name) is expected
    if name:
        monkeypatch.setenv(name, "swordfish")
        said = Redactor.of_environment().text("a swordfish swims")
        assert said == (f"a {REDACTED} swims" if expected else "a swordfish swims")
