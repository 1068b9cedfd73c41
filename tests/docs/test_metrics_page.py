"""docs/metrics.md and the registered metrics are the same list."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from niyama.server.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def registered() -> dict[str, tuple[str, set[str]]]:
    """Name as exposed to type and labels, of every metric."""
    registry = CollectorRegistry()
    metrics = Metrics({}, "demo", registry)
    found = {}
    for metric in metrics._registered:
        (family,) = metric.describe()
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = (family.type, set(metric._labelnames))
    return found


def documented() -> dict[str, tuple[str, set[str]]]:
    """The same, from the rows ``| `niyama_x` | type | unit | labels | meaning |``."""
    rows = re.findall(r"^\| `(niyama_\w+)` \| (\w+) \| [^|]+ \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows}), "a metric has two rows"
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_metrics_page_lists_exactly_the_registered_metrics() -> None:
    assert documented() == registered()
