"""Reads a file of metrics with Prometheus's own parser: read.py FILE COUNT"""

import re
import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

file, count = sys.argv[1], int(sys.argv[2])
families = {}
for family in text_string_to_metric_families(open(file, encoding="utf-8").read()):
    assert family.name not in families, f"{family.name} comes twice"
    assert re.fullmatch(r"nauthilus_backend_[a-z_]+", family.name), family.name
    assert family.documentation, f"{family.name} has no help"
    families[family.name] = family

up = families["nauthilus_backend_target_up"].samples
assert len(up) == count, f"{len(up)} targets"
assert len({sample.labels["target"] for sample in up}) == count
nodes = families["nauthilus_backend_node_usable"].samples
assert {sample.labels["node"] for sample in nodes} == {f'"node" \\{n}' for n in range(1, count + 1)}
assert {sample.labels["pool"] for sample in nodes} == {"ä {} ="}
states = families["nauthilus_backend_targets"].samples
assert sum(sample.value for sample in states) == count
for name, family in families.items():
    for sample in family.samples:
        if family.type == "histogram":
            assert "target" not in sample.labels and "node" not in sample.labels, name
        assert "user" not in sample.labels, name
