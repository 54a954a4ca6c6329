"""The tree is that of RFC 6962, whatever its size."""

from __future__ import annotations

from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from guard.audit.merkle import EMPTY_ROOT, CompactRange, leaf_hash, node_hash


def _by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(_by_definition(leaves[:split]), _by_definition(leaves[split:]))


def test_roots_agree_with_another_implementation_for_every_size_to_a_thousand() -> None:
    theirs, ours = InmemoryTree(algorithm="sha256"), CompactRange()
    for size in range(1, 1001):
        entry = f"record {size}".encode()
        theirs.append_entry(entry)
        ours.append(leaf_hash(entry))
        assert ours.size == size
        assert ours.root() == theirs.get_root()


def test_the_tree_without_leaves_has_the_root_the_rfc_gives_it() -> None:
    assert CompactRange().root() == EMPTY_ROOT == sha256(b"").digest()


def test_it_keeps_no_more_hashes_than_its_size_has_bits() -> None:
    tree = CompactRange()
    for size in range(1, 300):
        tree.append(leaf_hash(b"x"))
        assert len(tree.peaks) == size.bit_count()


@given(st.lists(st.binary(max_size=8), max_size=40), st.integers(0, 40))
def test_a_copy_grows_apart_and_both_stay_true_to_the_definition(entries: list[bytes], split: int) -> None:
    tree = CompactRange()
    for entry in entries[:split]:
        tree.append(leaf_hash(entry))
    grown = tree.copy()
    for entry in entries[split:]:
        grown.append(leaf_hash(entry))
    assert tree.root() == _by_definition(entries[:split])
    assert grown.root() == _by_definition(entries)
