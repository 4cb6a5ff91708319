"""The report as JUnit XML: a suite per clause, a test case per case."""

import re
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from attnref_conformance.report.page import Page
from attnref_conformance.status import Outcome, Status

_FORBIDDEN = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, even escaped."""


def document(page: Page) -> str:
    """Write the document."""
    name = {"name": _plain(f"attnref conform {page.name}")}
    root = ET.Element("testsuites", {**name, **_totals(page.outcomes)})
    _properties(root, page)
    extra = [o for f in page.failures for o in f.outcomes if o.id == "run"]
    everything = [*page.outcomes, *extra]
    for clause in sorted({o.clause for o in everything}):
        mine = [o for o in everything if o.clause == clause]
        suite = ET.SubElement(root, "testsuite", {"name": clause, **_totals(mine)})
        for o in mine:
            _case(suite, o)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _totals(outcomes: Sequence[Outcome]) -> dict[str, str]:
    errors = sum(o.status in (Status.CRASH, Status.ERROR) for o in outcomes)
    return {
        "tests": str(len(outcomes)),
        "failures": str(sum(o.status.failure for o in outcomes) - errors),
        "errors": str(errors),
        "skipped": str(sum(o.status in (Status.UNSUPPORTED, Status.NOT_RUN) for o in outcomes)),
        "time": f"{sum(o.seconds for o in outcomes):.3f}",
    }


def _properties(root: ET.Element, page: Page) -> None:
    properties = ET.SubElement(root, "properties")
    for name, value in [("verdict", page.verdict), *page.facts]:
        ET.SubElement(properties, "property", name=name, value=_plain(value))


def _case(suite: ET.Element, o: Outcome) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=o.clause, name=_plain(o.id), time=f"{o.seconds:.3f}"
    )
    message = _plain(o.message)
    if o.status in (Status.UNSUPPORTED, Status.NOT_RUN):
        ET.SubElement(case, "skipped", type=str(o.status), message=message)
    elif o.status.failure:
        tag = "error" if o.status in (Status.CRASH, Status.ERROR) else "failure"
        wrong = ET.SubElement(case, tag, type=str(o.status), message=message)
        wrong.text = _plain("\n".join(filter(None, [o.message, o.call])))
    elif message:
        ET.SubElement(case, "system-out").text = f"{o.status}: {message}"


def _plain(text: str) -> str:
    return _FORBIDDEN.sub(lambda match: repr(match[0])[1:-1], text)
