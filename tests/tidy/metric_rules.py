"""Rules on metrics: names by Prometheus' conventions, and nothing queried that is not exported."""

import json
import re

from tree import Finding

CATALOG = "common/base/metric_catalog.h"

_SPEC = re.compile(
    r'MetricSpec\s+(k\w+)\s*\{\s*"([^"]*)"\s*,\s*MetricKind::k(\w+)\s*,\s*"([^"]*)"\s*,\s*'
    r'((?:"(?:[^"\\]|\\.)*"\s*)+)(?:,\s*\{([^}]*)\})?\s*,?\s*\}')
_NAME = re.compile(r"fathom_[a-z][a-z0-9]*(_[a-z0-9]+)*")
_QUERIED = re.compile(r"\b(fathom_[A-Za-z0-9_]+)\b")
_RECORDED = re.compile(r"\b([a-z][a-z0-9_]*:[a-z0-9_:]+)\b")
# Not base units, or suffixes that Prometheus gives to the parts of a histogram.
_BAD_WORDS = ("ms", "us", "ns", "milliseconds", "microseconds", "minutes", "hours", "kb", "mb",
              "gb", "kilobytes", "megabytes", "percent", "sum", "bucket", "count")
_UNIT_SUFFIX = {"seconds": "seconds", "bytes": "bytes", "ratio": "ratio"}


class Metric:
    """One entry of the catalog."""

    def __init__(self, match, line):
        self.symbol, self.name, self.kind, self.unit = match.group(1, 2, 3, 4)
        self.help = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', match.group(5)))
        self.labels = re.findall(r'"([^"]+)"', match.group(6) or "")
        self.line = line


def read_catalog(text):
    return [Metric(m, text.count("\n", 0, m.start()) + 1) for m in _SPEC.finditer(text)]


def _name_problems(metric):
    words = metric.name.split("_")
    if not _NAME.fullmatch(metric.name):
        yield "is not fathom_ and lower-case words"
    if (metric.kind == "Counter") != metric.name.endswith("_total"):
        yield "ends in _total exactly when it is a counter"
    bad = [w for w in words if w in _BAD_WORDS]
    if bad:
        yield f"says {bad[0]}: base units only, and no suffix of Prometheus' own"
    suffix = _UNIT_SUFFIX.get(metric.unit)
    if suffix and suffix not in words[-2:]:
        yield f"does not end in its unit, {suffix}"
    for word in _UNIT_SUFFIX.values():
        if words[-1] == word and metric.unit != word:
            yield f"ends in {word} and has the unit {metric.unit}"
    if not metric.help.endswith("."):
        yield "has no sentence for a help"
    if any(not re.fullmatch(r"[a-z][a-z0-9_]*", label) or label in ("le", "quantile", "instance",
                                                                    "job_name") or
           label.startswith("__") for label in metric.labels):
        yield "has a label that Prometheus keeps for itself"


def expressions(tree, path):
    """[(line, query)] of a rules file or a dashboard."""
    text = tree.text(path)
    found = []
    if path.endswith(".json"):
        found = list(_dashboard_queries(json.loads(text)))
    else:
        import yaml
        document = yaml.safe_load(text) or {}
        for group in document.get("groups", []) if isinstance(document, dict) else []:
            found += [rule["expr"] for rule in group["rules"]]
    return [(_line_of(text, query), query) for query in found]


def _dashboard_queries(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from _dashboard_queries(value)
    elif isinstance(node, list):
        for item in node:
            yield from _dashboard_queries(item)


def _line_of(text, query):
    position = text.find(json.dumps(query)[1:21])
    return text.count("\n", 0, position) + 1 if position >= 0 else 1


def _recorded_names(tree, paths):
    names = set()
    for path in paths:
        if path.endswith((".yml", ".yaml")):
            names.update(re.findall(r"record:\s*(\S+)", tree.text(path)))
    return names


def metric_rule(tree):
    """Catalogued metrics are well named; dashboards and rules query only those."""
    findings = []
    paths = [p for p in tree.files
             if p.startswith("dashboards/") and p.endswith((".json", ".yml", ".yaml"))]
    if CATALOG not in tree.files:
        missing = Finding("metrics", CATALOG, 1, "is missing, and dashboards need it")
        return [missing] if paths else []
    text = tree.text(CATALOG)
    catalog = read_catalog(text)
    if len(catalog) != len(re.findall(r"\bconstexpr MetricSpec\b", text)):
        findings.append(Finding("metrics", CATALOG, 1, "has an entry this rule can't read"))
    seen = set()
    for metric in catalog:
        problems = list(_name_problems(metric))
        if metric.name in seen:
            problems.append("stands twice in the catalog")
        seen.add(metric.name)
        findings += [Finding("metrics", CATALOG, metric.line, f"{metric.name} {problem}")
                     for problem in problems]
    known = set(seen)
    for metric in catalog:
        if metric.kind == "Histogram":
            known.update(metric.name + part for part in ("_bucket", "_sum", "_count"))
    recorded = _recorded_names(tree, paths)
    for path in paths:
        for line, query in expressions(tree, path):
            findings += [Finding("metrics", path, line, f"{name} is not in the catalog")
                         for name in _QUERIED.findall(re.sub(_RECORDED, "", query))
                         if name not in known]
            findings += [Finding("metrics", path, line, f"no rule records {name}")
                         for name in _RECORDED.findall(re.sub(r'"[^"]*"', "", query))
                         if name not in recorded]
    return findings
