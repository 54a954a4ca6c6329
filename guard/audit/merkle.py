"""The Merkle tree of RFC 6962, as far as an append-only log needs it. Pure.

A tree over n leaves is kept as its *compact range*: the roots of the perfect subtrees that n splits into,
largest first, one for each set bit of n. Appending and computing the root touch at most log2(n) of them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

EMPTY_ROOT: Final = sha256(b"").digest()
"""The root of a tree without leaves (RFC 6962 §2.1)."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry): 32 bytes (RFC 6962 §2.1)."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right): 32 bytes (RFC 6962 §2.1)."""
    return sha256(b"\x01" + left + right).digest()


class CompactRange:
    """The perfect subtrees of a growing tree: `size` leaves, `peaks` from left (largest) to right."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: tuple[bytes, ...] = ()) -> None:
        """Resume at `size` leaves whose subtree roots are `peaks`; nothing means the empty tree."""
        self.size = size
        self.peaks = list(peaks)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash; every trailing set bit of the old size is a subtree that it completes."""
        size, peaks = self.size, self.peaks
        while size & 1:
            leaf = sha256(b"\x01" + peaks.pop() + leaf).digest()
            size >>= 1
        peaks.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root over all leaves: 32 bytes."""
        if not self.peaks:
            return EMPTY_ROOT
        *rest, root = self.peaks
        for peak in reversed(rest):
            root = node_hash(peak, root)
        return root

    def copy(self) -> CompactRange:
        """The same tree, growing apart from this one."""
        return CompactRange(self.size, tuple(self.peaks))
