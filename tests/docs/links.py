"""Checks that every link in README.md and docs/*.md to a file of the project, or to a heading in it, has a target, and
that the README links to every page of docs."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def anchor(heading):
    """The anchor that GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}


def broken():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", link):
                continue
            name, _, heading = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists():
                yield f"{page.name}: {link}: there is no such file"
            elif heading and heading not in anchors(target):
                yield f"{page.name}: {link}: there is no such heading"


def unlinked():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        if f"](docs/{page.name}" not in readme:
            yield f"README.md has no link to docs/{page.name}"


problems = [*broken(), *unlinked()]
print("\n".join(problems))
sys.exit(1 if problems else 0)
