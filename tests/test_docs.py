"""Every command and snippet of the documentation runs as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from gla import cli

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```", re.M | re.S)


def pages():
    return [path for path in sorted(DOCS.glob("*.md")) if BLOCK.search(path.read_text())]


@pytest.mark.parametrize("page", pages(), ids=lambda path: path.name)
def test_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, file, text in BLOCK.findall(page.read_text()):
        if language == "python" and file:
            (tmp_path / file).write_text(text)
        elif language == "python":
            command = [sys.executable, "-P", "-c", text]
            result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr
            assert result.stderr == ""
        elif language == "sh":
            for line in text.strip().splitlines():
                words = shlex.split(line)
                assert words[0] == "gla", f"{page.name} has a command that this test cannot run"
                assert cli.main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"


def anchors(page):
    """The names by which GitHub's headings are linked to."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_resolve():
    root = DOCS.parent
    for page in [*DOCS.glob("*.md"), root / "README.md"]:
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text()):
            if "://" not in target:
                file = page.parent / target if target else page
                assert file.exists(), f"{page.name} links to {target}"
                assert not anchor or anchor in anchors(file), f"{page.name}: {target}#{anchor}"
