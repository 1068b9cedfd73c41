"""Sharing fairly: no tenant makes another late by asking for more than its share.

At every importance the tenants share, by weight, the work that is not set aside; what one of them does
not need is the others' (max-min fairness). Nothing is asked of a tenant that stays within its share. Of
one that asks for more every request has a standing, in eighths of the share: how much of it the tenant's
smaller requests fill. When not all can be in time the highest standing goes first, so that each such
tenant keeps its smallest requests, as many as its weight is worth; under load those of a standing also
wait a little for the others. A tenant alone may have everything, and while everybody is in time nothing
differs.

Standing decides among equals of importance only (L12). A request costs its prefill, counted when it
arrives, and its answer, counted when it ends.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final
from zlib import crc32

from niyama.scheduling.load import Faded, Work, size_class
from niyama.scheduling.policy import Request

SHARE_WINDOW_S: Final = 60.0
"""Time constant of what a tenant asks for: so long a burst of the whole engine is within a share."""

FOLLOW_EVERY_S: Final = 1.0
"""The shares are found anew so often. O(tenants log tenants)."""

FORGET_S: Final = 300.0
"""A tenant that asks for nothing for so long is forgotten."""

MAX_TENANTS: Final = 512
"""So many are told apart at an importance; tenants are named by clients, and the plan waits for the shares.
Beyond it the one that has asked for nothing for the longest is forgotten."""

WITHIN: Final = 8
BEYOND: Final = 16
NUM_STANDINGS: Final = 40
"""Standings: 0 if the tenant asks for no more than its share; otherwise from WITHIN on, and from BEYOND on if
smaller requests fill the share. One more is an eighth of the share."""

HEADROOM: Final = 0.95
"""Shares are shares of so much of the work that is not set aside: who asks for most has a standing before
anybody is late."""

LEAST_KEPT: Final = 0.1
"""At least so much of what a tenant asks for counts as not set aside: a price is not found from nothing."""

OUTPUT_WEIGHT: Final = 2.0
"""Prefill tokens that an output token costs (Sheng et al., Fairness in Serving LLMs, 2024)."""

_HASH_RANGE: Final = 2.0**32


class Account:
    """What a tenant asks for at one importance, in tokens per second.

    Attributes:
        prefills: Prefill tokens, by size of the request.
        aside: Those of them that were set aside.
        answers: Output tokens of what has ended, at their price.
        sizes: Size classes of its requests, ascending; none while it asks for no more than its share.
        upto: How many shares the requests up to each class fill.
    """

    __slots__ = ("answers", "aside", "last_at", "prefills", "sizes", "upto", "weight")

    def __init__(self) -> None:
        self.weight = 1.0
        self.prefills = Work(SHARE_WINDOW_S)
        self.aside = Faded(SHARE_WINDOW_S)
        self.answers = Faded(SHARE_WINDOW_S)
        self.last_at = 0.0
        self.sizes: list[int] = []
        self.upto: list[float] = []

    def asked(self, now_s: float) -> tuple[float, float]:
        """Return what is asked for, and what of it is not set aside, answers included.

        The answers that ended are those of what was not set aside; the others would cost alike.
        """
        prefills = self.prefills.share(now_s)
        kept = max(prefills - max(0.0, self.aside.share(now_s)), LEAST_KEPT * prefills)
        price = 1.0 + self.answers.share(now_s) / kept if kept > 0.0 else 1.0
        return prefills * price, kept * price


class Shares:
    """Who is owed what, and which requests are beyond it."""

    def __init__(self) -> None:
        self._accounts: dict[int, dict[str, Account]] = {}
        self._followed_at = -math.inf
        self._is_marking = False

    def arrive(self, request: Request, num_tokens: int, now_s: float) -> None:
        """Count the prefill of a request. O(1)."""
        accounts = self._accounts.setdefault(int(request.importance), {})
        account = accounts.pop(request.tenant, None)
        if account is None:
            account = Account()
            if len(accounts) >= MAX_TENANTS:
                del accounts[next(iter(accounts))]
        accounts[request.tenant] = account  # the last to ask comes last
        account.weight = request.tenant_weight
        account.last_at = now_s
        account.prefills.add(num_tokens, now_s)

    def answered(self, request: Request, num_tokens: int, now_s: float) -> None:
        """Count an answer, now that it has ended. O(1)."""
        account = self._account(request)
        if account is not None:
            account.answers.add(OUTPUT_WEIGHT * num_tokens, now_s)

    def set_aside(self, request: Request, num_tokens: int, asked_at: float) -> None:
        """Take note that so much of the prefill that was asked for then is set aside; taken back if negative.

        It fades with what it is a part of. O(1).
        """
        account = self._account(request)
        if account is not None:
            account.aside.add(num_tokens, asked_at)

    def is_shared(self, importance: int) -> bool:
        """Whether several tenants ask at an importance: one alone may have it all."""
        return len(self._accounts.get(importance, ())) > 1

    def standing(self, request: Request, num_tokens: int) -> int:
        """Return the standing of a request with so many tokens to prefill. O(log of the size classes)."""
        account = self._account(request)
        if account is None or not account.sizes or not self.is_shared(int(request.importance)):
            return 0
        size, sizes, upto = size_class(num_tokens), account.sizes, account.upto
        place = bisect_left(sizes, size)
        filled = upto[place - 1] if place > 0 else 0.0
        if place < len(sizes) and sizes[place] == size:
            # Requests of one size have to share the place: whose is whose is a matter of their ids.
            filled += (upto[place] - filled) * crc32(request.request_id.encode()) / _HASH_RANGE
        return min(NUM_STANDINGS - 1, WITHIN + math.floor(filled * (BEYOND - WITHIN)))

    def follow(self, now_s: float) -> bool:
        """Find the shares anew if it is time to; return whether requests are to be marked anew."""
        if now_s < self._followed_at + FOLLOW_EVERY_S:
            return False
        self._followed_at = now_s
        was_marking, self._is_marking = self._is_marking, False
        for accounts in self._accounts.values():
            if len(accounts) > 1:
                for tenant in [t for t, a in accounts.items() if a.last_at + FORGET_S < now_s]:
                    del accounts[tenant]
                self._settle(list(accounts.values()), now_s)
        return was_marking or self._is_marking

    def _account(self, request: Request) -> Account | None:
        accounts = self._accounts.get(int(request.importance))
        return None if accounts is None else accounts.get(request.tenant)

    def _settle(self, accounts: list[Account], now_s: float) -> None:
        """Give everybody what it asks for or, if that is not there, its share; mark what is beyond."""
        asked = [account.asked(now_s) for account in accounts]
        left = HEADROOM * math.fsum([kept for _, kept in asked])
        asks = sorted([(ask / a.weight, a.weight) for (ask, _), a in zip(asked, accounts, strict=True)])
        level, weights = math.inf, math.fsum([weight for _, weight in asks])
        for ask, weight in asks:
            if ask * weights > left:
                level = left / weights
                break
            left -= ask * weight
            weights -= weight
        for (ask, _), account in zip(asked, accounts, strict=True):
            granted = level * account.weight
            account.sizes, account.upto = [], []
            if ask > granted:
                self._is_marking = True
                account.sizes, upto = account.prefills.upto(now_s)
                share = account.prefills.share(now_s) * granted / ask
                account.upto = [filled / share for filled in upto]
