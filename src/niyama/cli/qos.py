"""`niyama qos check FILE`: validate a QoS file and show what it promises."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from niyama.durations import format_duration
from niyama.qos import QosBook, Tenant
from niyama.qosfile import QosFileError, book_to_mapping, load_book
from niyama.server.tiers import class_of_tier, known_tiers
from niyama.wording import one_line


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb `qos` and its own verb `check`."""
    qos = subparsers.add_parser("qos", help="work with QoS files", description=__doc__)
    verbs = qos.add_subparsers(dest="qos_verb", metavar="VERB", required=True)
    check = verbs.add_parser("check", help="validate a QoS file and print it as a table")
    check.add_argument("file", metavar="FILE", help="the QoS file, YAML")
    check.add_argument("--json", metavar="FILE", help="also write the book as JSON; - for stdout, alone")
    check.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Check one file; returns 0, or 2 after one line on stderr if the file cannot be used."""
    try:
        book = load_book(args.file)
        if args.json not in (None, "-"):
            Path(args.json).write_text(_json(book), encoding="utf-8")
    except QosFileError as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(one_line(f"--json {args.json}: cannot write: {reason}"), file=sys.stderr)
        return 2
    sys.stdout.write(_json(book) if args.json == "-" else describe(book) + "\n")
    return 0


def describe(book: QosBook) -> str:
    """Return the book as tables for people: classes, tiers, objectives, client SLOs, tenants."""
    sections = [_table(("CLASS", "TTFT", "TBT", "TTLT", "IMPORTANCE", ""), _class_rows(book))]
    tiers = ((tier, class_of_tier(tier, book) or f"{book.default} (default)") for tier in known_tiers(book))
    sections.append(_table(("SERVICE TIER", "CLASS"), tiers))
    if book.objectives:
        sections.append(_table(("OBJECTIVE", "CLASS"), book.objectives.items()))
    sections.append(_client_slos(book))
    if book.tenants:
        rows = (
            (name, f"{tenant.weight:g}", _tenant_classes(tenant)) for name, tenant in book.tenants.items()
        )
        sections.append(_table(("TENANT", "WEIGHT", "CLASSES"), rows))
    return "\n\n".join(sections)


def _json(book: QosBook) -> str:
    return json.dumps(book_to_mapping(book), indent=2) + "\n"


def _class_rows(book: QosBook) -> Iterable[tuple[str, ...]]:
    for name, qos_class in book.classes.items():
        slo = qos_class.slo
        parts = (
            "-" if part is None else format_duration(part) for part in (slo.ttft_s, slo.tbt_s, slo.ttlt_s)
        )
        mark = "default" if name == book.default else ""
        yield name, *parts, qos_class.importance.name.lower(), mark


def _client_slos(book: QosBook) -> str:
    limits = book.client_slos
    if not limits.allow:
        return "SLOs from clients: refused"
    floors = zip(
        ("TTFT", "TBT", "TTLT"), (limits.min_ttft_s, limits.min_tbt_s, limits.min_ttlt_s), strict=True
    )
    return "SLOs from clients: at least " + ", ".join(
        f"{name} {format_duration(floor)}" for name, floor in floors
    )


def _tenant_classes(tenant: Tenant) -> str:
    return "all" if tenant.classes is None else ", ".join(tenant.classes)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = ("  ".join(map(str.ljust, line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)
