"""The page beside the project tells the truth."""

import doctest
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_the_examples_run() -> None:
    """What a reader types prints what the page shows."""
    failed, attempted = doctest.testfile(str(PROJECT / "README.md"), module_relative=False)

    assert (0, True) == (failed, attempted > 0)


def test_the_wheels_have_the_names_that_the_page_installs() -> None:
    """A new version must not leave the command behind."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]

    wheel = f"{project['name'].replace('-', '_')}-{project['version']}-py3-none-any.whl"
    assert f"dist/{wheel}" in (PROJECT / "README.md").read_text("utf-8")
