#!/usr/bin/env python3
"""Puts a comparison into the README: its table between the markers, its picture, and the figures behind both.

    python scripts/readme_table.py DIR      DIR is the --out of a whole `niyama compare`

`tests/docs` checks that the README shows what `docs/data/compare.json` comes to.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from niyama.bench.compareresult import as_text

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- compare:begin -->\n", "<!-- compare:end -->\n"

KEPT = (
    *("policy", "chunk", "scenario", "load", "qps", "repeat", "seed", "seconds", "valid", "settled_by"),
    *("late_share", "late_share_important", "goodput_rps", "throughput_tps"),
)
"""What of a run the tables need."""


def trimmed(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with as much of every run as the tables need."""
    short = dict(result)
    for part in ("runs", "tuning", "knee_runs"):
        short[part] = [{key: row[key] for key in KEPT if key in row} for row in result[part]]
    return short


def shown(readme: str, result: dict[str, Any]) -> str:
    """Return the README with the table of a result."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{as_text(result)}{END}{after}"


def main() -> int:
    """Write README, picture and figures."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, readme, data = Path(sys.argv[1]), ROOT / "README.md", ROOT / "docs" / "data"
    result = trimmed(json.loads((folder / "result.json").read_text(encoding="utf-8")))
    data.mkdir(exist_ok=True)
    (data / "compare.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    shutil.copy(folder / "picture.png", ROOT / "docs" / "images" / "compare.png")
    readme.write_text(shown(readme.read_text(encoding="utf-8"), result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
