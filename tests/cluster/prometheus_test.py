#!/usr/bin/python3
"""Debian's Prometheus scrapes a live cluster, and every query of every dashboard has an answer.

While a job trains: promtool accepts the configuration, the rules and what each daemon exports;
every metric of the catalog arrives; each panel's query, alert and recorded series evaluates.
"""

import glob
import json
import os
import re
import socket
import subprocess
import unittest
import urllib.parse
import urllib.request

import yaml

from harness import Cluster, REPOSITORY, wait_until

DASHBOARDS = os.path.join(REPOSITORY, "dashboards")
CATALOG = os.path.join(REPOSITORY, "common", "base", "metric_catalog.h")
VARIABLES = {"$__rate_interval": "30s", "$__interval": "15s", "$__range": "5m", "$job": ".*"}


def get(url):
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read().decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """Debian's prometheus over the house's own configuration, scraping one cluster, fast."""

    def __init__(self, cluster, coordinator_metrics):
        self.folder = os.path.join(cluster.folder, "prometheus")
        os.makedirs(self.folder)
        with open(os.path.join(DASHBOARDS, "prometheus", "prometheus.yml"),
                  encoding="utf-8") as stream:
            config = yaml.safe_load(stream)
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [os.path.join(DASHBOARDS, "prometheus", "rules.yml")]
        discovery = config["scrape_configs"][0]["http_sd_configs"][0]
        assert "127.0.0.1:7071" in discovery["url"]
        discovery["url"] = discovery["url"].replace("127.0.0.1:7071", coordinator_metrics)
        discovery["refresh_interval"] = "1s"
        self.config = os.path.join(self.folder, "prometheus.yml")
        with open(self.config, "w", encoding="utf-8") as stream:
            yaml.safe_dump(config, stream)
        self.url = f"http://127.0.0.1:{free_port()}"
        self._process = None
        self._environment = cluster.environment

    def __enter__(self):
        with open(os.path.join(self.folder, "log"), "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # pylint: disable=consider-using-with
                ["prometheus", f"--config.file={self.config}",
                 f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address={self.url[len('http://'):]}"],
                env=self._environment, stdout=log, stderr=log)
        wait_until(self._ready, 30, "prometheus is ready")
        return self

    def __exit__(self, *_error):
        self._process.terminate()
        self._process.wait(timeout=30)

    def _ready(self):
        try:
            return "Ready" in get(self.url + "/-/ready")
        except OSError:
            return False

    def query(self, expression):
        """The samples of an instant query; an error where Prometheus refuses it."""
        reply = json.loads(get(f"{self.url}/api/v1/query?" +
                               urllib.parse.urlencode({"query": expression})))
        assert reply["status"] == "success", (expression, reply)
        return reply["data"]["result"]


def queries(node, title=""):
    """(title, query) of every panel, variable and annotation of a dashboard."""
    if isinstance(node, dict):
        title = node.get("title", title)
        for key, value in node.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield title, value
            else:
                yield from queries(value, title)
    elif isinstance(node, list):
        for item in node:
            yield from queries(item, title)


# Series that begin with the first fault of their kind: a lost node, a signal of failing hardware.
ONLY_OF_FAULTS = ("fathom_node_losses_total", "fathom_worker_health_signals")


# Panels that filter for what is wrong, and rightly show nothing on a cluster that is well.
EMPTY_WHEN_WELL = ("fathom_job_waiting_seconds > 0", "increase(fathom_node_losses_total[1h]) > 0")


def concrete(query):
    """A dashboard's query with its variables filled in, as Prometheus itself takes it."""
    query = re.sub(r"label_values\((\w+),\s*\w+\)", r"\1", query)
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


class PrometheusTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cluster = cls.cluster = Cluster.unstarted(nodes=3, ranks_per_node=2)
        del cluster.up  # the class's own again
        # By its profile steps are predicted.
        os.makedirs(cluster.state)
        cluster.ctl("profile", "--precision", "fp32", "--rounds", "1", seconds=400)
        cls.enterClassContext(cluster)
        cls.coordinator = cluster.coordinator()["metrics_address"]
        cls.prometheus = cls.enterClassContext(Prometheus(cluster, cls.coordinator))
        cluster.train("short", training={"steps": 2})  # so that ranks have ended, too
        cluster.ctl("submit", "-f", cluster.job_file(
            "watched", parallelism={"pipeline": 2, "expert": 2},
            training={"steps": 1000000, "validation_every": 5},
            checkpoint={"every_steps": 10}))
        cluster.wait_for_job("watched", lambda job: job["step"] >= 25, 120, "has done 25 steps")
        moved = cluster.busy_nodes()[0]["name"]  # so that there is a recovery to tell of
        cluster.ctl("drain", moved, "--reason", "to see it move", "--wait")
        wait_until(lambda: any(entry["finished"] for entry in cluster.recoveries("watched")), 60,
                   "the drain is over")
        cluster.ctl("undrain", moved)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.ctl("cancel", "watched", expect=None)

    def promtool(self, *arguments, text=None):
        result = subprocess.run(["promtool", *arguments], input=text, capture_output=True,
                                text=True, timeout=60)
        self.assertEqual(result.returncode, 0, f"{arguments}\n{result.stdout}{result.stderr}")
        return result.stdout + result.stderr

    def eventually(self, expression):
        """The answer to a query, within a few scrapes."""
        return wait_until(lambda: self.prometheus.query(expression), 30,
                          f"an answer to {expression}")

    def test_promtool_accepts_configuration_and_rules(self):
        folder = os.path.join(DASHBOARDS, "prometheus")
        self.promtool("check", "config", os.path.join(folder, "prometheus.yml"))
        self.promtool("check", "rules", os.path.join(folder, "rules.yml"))
        self.promtool("test", "rules", os.path.join(folder, "rules_test.yml"))

    def test_promtool_accepts_what_each_daemon_exports(self):
        targets = [target for group in json.loads(get(f"http://{self.coordinator}/sd"))
                   for target in group["targets"]]
        self.assertEqual(len(targets), 4, "a coordinator and three nodes")
        for target in targets:
            text = get(f"http://{target}/metrics")
            self.assertIn("fathom_build_info", text)
            self.promtool("check", "metrics", text=text)

    def test_every_daemon_is_scraped(self):
        wait_until(lambda: len(self.prometheus.query('up{job="fathom"} == 1')) == 4, 30,
                   "four daemons are up", lambda: get(self.prometheus.url + "/api/v1/targets"))

    def test_every_panel_has_an_answer(self):
        files = glob.glob(os.path.join(DASHBOARDS, "grafana", "dashboards", "*.json"))
        self.assertTrue(files)
        for file in files:
            with open(file, encoding="utf-8") as stream:
                found = list(queries(json.load(stream)))
            self.assertGreater(len(found), 20)
            for title, query in found:
                with self.subTest(panel=title, query=query):
                    # An annotation, or a filter of what is wrong: rightly empty while nothing is.
                    if "changes(" in query or query in EMPTY_WHEN_WELL:
                        self.prometheus.query(concrete(query))
                    else:
                        self.assertTrue(self.eventually(concrete(query)))

    def test_every_catalogued_metric_is_scraped(self):
        with open(CATALOG, encoding="utf-8") as stream:
            specs = re.findall(r'MetricSpec\s+\w+\s*\{\s*"(\w+)",\s*MetricKind::k(\w+)',
                               stream.read())
        self.assertGreater(len(specs), 30)
        for name, kind in specs:
            if name in ONLY_OF_FAULTS:
                continue
            with self.subTest(metric=name):
                series = name + ("_count" if kind == "Histogram" else "")
                self.assertTrue(self.eventually(f'{{__name__="{series}"}}'))

    def test_every_rule_is_evaluated_without_error(self):
        def rules():
            groups = json.loads(get(self.prometheus.url + "/api/v1/rules"))["data"]["groups"]
            found = [rule for group in groups for rule in group["rules"]]
            return found if found and all(r["health"] == "ok" for r in found) else None

        found = wait_until(rules, 30, "every rule is healthy",
                           lambda: get(self.prometheus.url + "/api/v1/rules"))
        firing = [r["name"] for r in found if r["type"] == "alerting" and r["state"] == "firing"]
        self.assertEqual(firing, [], "alerts on a healthy cluster")
        for rule in found:
            if rule["type"] == "recording":
                self.assertTrue(self.eventually(rule["name"]), rule["name"])


if __name__ == "__main__":
    unittest.main()
