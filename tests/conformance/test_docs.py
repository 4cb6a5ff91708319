"""What the documentation says of reports is so."""

import re
from pathlib import Path

from attnref_conformance.report import jsonfile
from attnref_conformance.status import Outcome, Status

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reports.md").read_text("utf-8")


def test_the_schema_is_published_as_it_is_shipped() -> None:
    """Whole, and unchanged."""
    shipped = Path(jsonfile.__file__).with_name("schema.json").read_text("utf-8").strip()
    assert shipped == re.search(r"```json\n(.*?)\n```", PAGE, re.DOTALL)[1]


def test_the_numbers_described_are_fields_of_an_outcome() -> None:
    """And the manual knows every status."""
    table = PAGE.partition("## Numbers")[2].partition("## Verification")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) <= set(Outcome.__dataclass_fields__)
    manual = (ROOT / "conformance" / "README.md").read_text("utf-8")
    assert all(f"| {status} |" in manual for status in Status)
