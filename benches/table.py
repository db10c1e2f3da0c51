"""The table of a run, as text for a terminal and as Markdown for the documentation."""

import statistics

HEAD = ["what", "unit", "ours", "baseline", "ratio", "spread", "goal", "met"]
BEGIN, END = "<!-- table: written by `make bench MARKDOWN=docs/performance.md` -->", "<!-- end of table -->"


def number(value):
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cells(row):
    if row.failed:
        return [row.what, row.unit, "–", "–", "–", "–", row.goal(), "not measured: " + row.failed]
    ratio = row.compares and row.ratio is not None
    return [
        row.what, row.unit,
        number(statistics.median(row.ours)),
        f"{number(statistics.median(row.baseline))} ({row.beside})" if ratio else "–",
        f"{row.ratio:.2f}" if ratio else "–",
        f"{number(row.low)} … {number(row.high)}",
        row.goal(),
        judgement(row),
    ]


def judgement(row):
    if row.is_tie():
        return "tie"
    if row.is_beyond_limit():
        return f"no: the limit is {row.limit:.2f}"
    return "yes" if row.met() else "no"


def head(facts):
    return [f"{name}: {value}" for name, value in facts.items()]


def text(facts, rows):
    lines = [HEAD, *map(cells, rows)]
    # The last column is not padded: it may hold a whole sentence.
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD) - 1)]
    body = [
        "  ".join([cell.ljust(width) for cell, width in zip(line, widths)] + [line[-1]])
        for line in lines
    ]
    notes = [f"{row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*head(facts), "", *body, "", *notes])


def markdown(facts, rows):
    def line(row):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    lines = [line(HEAD), "|" + "---|" * len(HEAD), *(line(cells(row)) for row in rows)]
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([", ".join(head(facts)) + ".", "", *lines, "", *notes])


def write_markdown(path, facts, rows):
    """Replaces what stands between the two marks."""
    before, rest = path.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n{markdown(facts, rows)}\n{END}{after}", encoding="utf-8")
