"""Keys are private, made once, and what they seal opens nowhere else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import ConfigError, StoreUnavailableError
from guard.store.seal import KEY_BYTES, Keyring
from guard.testing import race

RING = Keyring(seal_key=b"s" * KEY_BYTES, digest_key=b"d" * KEY_BYTES)
OTHER = Keyring(seal_key=b"o" * KEY_BYTES, digest_key=b"d" * KEY_BYTES)


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_was_sealed_comes_back(plain: bytes, aad: bytes) -> None:
    sealed = RING.seal(plain, aad)
    assert RING.unseal(sealed, aad) == plain
    assert RING.seal(plain, aad) != sealed


@given(st.binary(max_size=40), st.data())
def test_any_changed_bit_is_refused(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(RING.seal(plain, b"row"))
    position = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[position // 8] ^= 1 << position % 8
    with pytest.raises(StoreUnavailableError):
        RING.unseal(bytes(sealed), b"row")


@given(st.binary(max_size=60))
def test_bytes_that_were_never_sealed_are_refused(sealed: bytes) -> None:
    with pytest.raises(StoreUnavailableError):
        RING.unseal(sealed, b"row")
    with pytest.raises(StoreUnavailableError):
        RING.unseal(b"\x01" + sealed, b"row")


def test_another_row_or_another_key_does_not_open_it() -> None:
    sealed = RING.seal(b"secret", b"row 1")
    with pytest.raises(StoreUnavailableError):
        RING.unseal(sealed, b"row 2")
    with pytest.raises(StoreUnavailableError):
        OTHER.unseal(sealed, b"row 1")


def test_keys_are_made_once_and_privately_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        first = Keyring.open(tmp_path / "state")
    finally:
        os.umask(before)
    keys = tmp_path / "state" / "keys"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700
    assert {file.name: stat.S_IMODE(file.stat().st_mode) for file in keys.iterdir()} == {
        "seal.key": 0o600,
        "digest.key": 0o600,
    }
    assert (keys / "seal.key").read_bytes() != (keys / "digest.key").read_bytes()
    again = Keyring.open(tmp_path / "state")
    assert again.digest_key == first.digest_key
    assert again.unseal(first.seal(b"secret", b"row"), b"row") == b"secret"


def test_starts_at_the_same_moment_agree_on_the_keys(tmp_path: Path) -> None:
    rings = race(lambda _: Keyring.open(tmp_path / "state"), 16)
    assert len({ring.digest_key for ring in rings}) == 1
    sealed = rings[0].seal(b"secret", b"row")
    assert {ring.unseal(sealed, b"row") for ring in rings} == {b"secret"}
    assert len(list((tmp_path / "state" / "keys").iterdir())) == 2


@pytest.mark.parametrize("name", ["seal.key", "digest.key"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_key_others_may_touch_is_refused_with_a_sentence(tmp_path: Path, name: str, mode: int) -> None:
    Keyring.open(tmp_path)
    file = tmp_path / "keys" / name
    file.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 0600") as refused:
        Keyring.open(tmp_path)
    assert refused.value.file == str(file)


def test_a_key_directory_others_may_touch_is_refused(tmp_path: Path) -> None:
    Keyring.open(tmp_path)
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 0700"):
        Keyring.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * (KEY_BYTES + 1)])
def test_a_file_that_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    Keyring.open(tmp_path)
    (tmp_path / "keys" / "seal.key").write_bytes(content)
    with pytest.raises(ConfigError, match="32 bytes"):
        Keyring.open(tmp_path)
    assert (tmp_path / "keys" / "seal.key").read_bytes() == content


def test_a_link_in_the_place_of_a_key_is_not_followed(tmp_path: Path) -> None:
    Keyring.open(tmp_path)
    key = tmp_path / "keys" / "seal.key"
    key.rename(tmp_path / "elsewhere")
    key.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreUnavailableError):
        Keyring.open(tmp_path)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Keyring(seal_key=b"short", digest_key=b"d" * KEY_BYTES)
