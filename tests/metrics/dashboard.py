"""The dashboard is one that Grafana reads: Grafana's own schema has a place for each of its keys, panels do not
overlap, and each variable and each label that a name of a series uses is there."""

import json
import pathlib
import re

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

BOARD = pathlib.Path(__file__).resolve().parents[2] / "examples/prometheus/grafana.json"
# Grafana's own, and those that it defines.
PANELS = {"stat", "state-timeline", "timeseries", "table"}
GIVEN = {"__rate_interval"}
COLUMNS = 24


def compare(given, read, path):
    """Whatever the schema does not know is lost when it is read."""
    if isinstance(given, dict):
        assert isinstance(read, dict) and given.keys() <= read.keys(), f"{path}: {given} became {read}"
        for key, value in given.items():
            compare(value, read[key], f"{path}.{key}")
    elif isinstance(given, list):
        assert isinstance(read, list) and len(given) == len(read), f"{path}: {given} became {read}"
        for index, (mine, other) in enumerate(zip(given, read)):
            compare(mine, other, f"{path}[{index}]")
    else:
        assert given == read, f"{path}: {given} became {read}"


def check_places(panels):
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} overlaps {taken.get((x, y))}"
                taken[x, y] = panel["title"]


def check_targets(panel, variables):
    names = [target["refId"] for target in panel["targets"]]
    assert len(set(names)) == len(names), panel["title"]
    for target in panel["targets"]:
        assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        expression = target["expr"]
        used = set(re.findall(r"\$\{?(\w+)", expression))
        assert used <= variables | GIVEN, f"{panel['title']}: {used - variables}"
        labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        assert labels <= kept, f"{panel['title']}: {labels - kept} is in no series"


register_default_plugins()
board = json.loads(BOARD.read_text(encoding="utf-8"))
compare(board, json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)), "dashboard")
assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", board["uid"]), board["uid"]
identifiers = [panel["id"] for panel in board["panels"]]
assert len(set(identifiers)) == len(identifiers), identifiers
assert {panel["type"] for panel in board["panels"]} <= PANELS
check_places(board["panels"])
known = {variable["name"] for variable in board["templating"]["list"]}
for one in board["panels"]:
    assert one["datasource"]["uid"] == "${datasource}", one["title"]
    check_targets(one, known)
