"""`service_tier`, the one QoS knob that stock OpenAI and Anthropic clients have.

The operator's map decides. Without an entry, `priority` and its newer name `fast` mean the class
`interactive`, `flex` means `batch`, each where the book has that class; every other tier is the
default class.
"""

from __future__ import annotations

from niyama.qos import QosBook

_ALIASES = {"fast": "priority"}
_USUAL = {"priority": "interactive", "flex": "batch"}
_DEFAULT_TIERS = ("auto", "default", "scale", "standard_only")
_NEVER_ANSWERED = ("auto", "standard_only", *_ALIASES)


def known_tiers(book: QosBook) -> tuple[str, ...]:
    """Return every `service_tier` that a request may carry."""
    usual = (*_USUAL, *_ALIASES, *_DEFAULT_TIERS)
    return (*usual, *(tier for tier in book.service_tiers if tier not in usual))


def class_of_tier(tier: str, book: QosBook) -> str | None:
    """Return the name of the class that a tier asks for, or None for the default class."""
    canonical = _ALIASES.get(tier, tier)
    mapped = book.service_tiers.get(tier) or book.service_tiers.get(canonical)
    if mapped is not None:
        return mapped
    usual = _USUAL.get(canonical)
    return usual if usual in book.classes else None


def served_tier(asked: str, qos_class: str, book: QosBook) -> str:
    """Return the tier to answer with: the one that the serving class really stands for.

    OpenAI answers `priority` to `fast` and never `auto`; a tier that some stronger carrier
    overrode is answered with the tier of the class that served.
    """
    mapped = class_of_tier(asked, book)
    canonical = _ALIASES.get(asked, asked)
    if canonical not in _NEVER_ANSWERED and qos_class == (mapped or book.default):
        return canonical if mapped else "default"
    if qos_class == book.default:
        return "default"
    answerable = (tier for tier in known_tiers(book) if tier not in _NEVER_ANSWERED)
    return next((tier for tier in answerable if class_of_tier(tier, book) == qos_class), "default")


def anthropic_tier(tier: str) -> str:
    """Return the tier in the words of `usage.service_tier` in Anthropic's Messages API."""
    return {"priority": "priority", "flex": "batch"}.get(tier, "standard")
