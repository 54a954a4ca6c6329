"""What stores promise about withheld results."""

from __future__ import annotations

from dataclasses import replace

from guard.model import State
from guard.ports import Store
from guard.results import Kept
from guard.testing.examples import NOON, example_challenge, race


class ResultContract:
    """What `guard.results.Results` promises."""

    @staticmethod
    def _kept(number: int = 1, *, call: str = "call", principal: str = "deployer") -> Kept:
        return Kept(
            digest=f"{number:064x}",
            call_digest=call,
            call_id=f"k_{number}",
            principal=principal,
            server="payments",
            name="export",
            size=12,
            rows=-1,
            limits=("payments.yaml#tools.export.limits[0]",),
            band=0,
            evidence="",
            at=NOON + number,
            expires=NOON + 900,
        )

    def test_a_result_is_kept_by_its_call_the_first_one_first(self, store: Store) -> None:
        """And its bytes come back."""
        one, two = self._kept(1), self._kept(2)
        assert store.results.keep(two, b"two", each=9, most=99)
        assert store.results.keep(one, b"one\0\xff", each=9, most=99)
        assert store.results.digests() == {"call"}
        assert store.results.oldest("call") == one
        assert store.results.answer(one.digest) == b"one\0\xff"
        assert store.results.drop(one.digest)
        assert store.results.oldest("call") == two
        assert store.results.answer(one.digest) is None
        assert store.results.oldest("none") is None

    def test_only_so_many_are_kept_for_one_principal_and_so_many_bytes_for_all(self, store: Store) -> None:
        """What does not fit changes nothing."""
        assert store.results.keep(self._kept(1), b"x" * 500, each=1, most=1000)
        assert not store.results.keep(self._kept(2), b"x", each=1, most=1000)
        assert not store.results.keep(self._kept(3, principal="other"), b"x" * 501, each=1, most=1000)
        assert store.results.keep(self._kept(4, principal="other"), b"x" * 450, each=1, most=1000)

    def test_a_result_is_dropped_by_one(self, store: Store) -> None:
        """Of many who try."""
        kept = self._kept()
        store.results.keep(kept, b"x", each=9, most=99)
        assert sum(race(lambda _: store.results.drop(kept.digest))) == 1

    def test_erased_bytes_are_gone_and_the_call_is_still_known_until_it_is_buried(self, store: Store) -> None:
        """And make room."""
        kept = self._kept()
        assert store.results.keep(kept, b"x" * 9, each=1, most=40)
        assert [store.results.erase(kept.digest), store.results.erase(kept.digest)] == [True, False]
        assert (store.results.answer(kept.digest), store.results.oldest("call")) == (None, kept)
        assert not store.results.due(NOON + 9000)
        assert store.results.keep(self._kept(2), b"x" * 9, each=1, most=40)
        assert store.results.bury(kept.expires) == 0
        assert store.results.bury(kept.expires + 1)
        assert not store.results.digests()

    def test_what_is_out_of_time_or_refused_is_due(self, store: Store) -> None:
        """And nothing else."""
        kept, other = self._kept(1), self._kept(2)
        for one in (kept, other):
            store.results.keep(one, b"x", each=9, most=99)
        asked = store.challenges.open_or_join(example_challenge(digest=kept.digest))
        assert not store.results.due(NOON + 899)
        denied = replace(asked, state=State.DENIED, arguments="", version=1)
        assert store.challenges.swap(asked, denied, durable=True)
        assert store.results.due(NOON + 899) == [kept]
        assert {one.digest for one in store.results.due(NOON + 900)} == {kept.digest, other.digest}
