"""The README and the request page say what the program does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from niyama.asking import ALL_KEYS
from niyama.bench.compareresult import as_text
from niyama.bench.findings import findings
from niyama.qosfile import load_book, parse_book
from niyama.scheduling.registry import POLICIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REQUESTS = (ROOT / "docs" / "requests.md").read_text(encoding="utf-8")


def test_readme_qos_file_is_valid() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert list(parse_book(block).classes) == ["chat", "summarize", "overnight"]


def test_example_qos_file_is_valid() -> None:
    assert load_book(ROOT / "examples" / "qos.yaml").classes


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_page_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_readme_shows_the_comparison_whose_figures_are_kept() -> None:
    """`scripts/readme_table.py` writes both; nobody edits the one without the other."""
    result = json.loads((ROOT / "docs" / "data" / "compare.json").read_text(encoding="utf-8"))
    block = README.partition("<!-- compare:begin -->\n")[2].partition("<!-- compare:end -->")[0]
    assert block == as_text(result)
    assert result["findings"] == findings(result)
    assert not result["shortened"]


def test_request_page_names_every_key() -> None:
    for key in ALL_KEYS:
        assert f"`{key}`" in REQUESTS


def test_request_page_names_every_error_code() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in [ROOT / "src/niyama/asking.py", *(ROOT / "src/niyama/server").glob("*.py")]
    )
    codes = set(
        re.findall(r'"(invalid_(?!request_error|api_key)\w+|\w+_not_allowed|request_too_large)"', source)
    )
    assert codes
    for code in codes:
        assert f"`{code}`" in REQUESTS, code


def test_policy_names_are_documented() -> None:
    text = (ROOT / "docs" / "add-a-policy.md").read_text(encoding="utf-8")
    for name in POLICIES:
        assert f"`{name}`" in text, name


def test_readme_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
