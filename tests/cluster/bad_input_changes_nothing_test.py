#!/usr/bin/python3
"""Bad input gets a clear error and changes nothing: no job, no event, no file.

Each case gives the exit code that fathomctl documents and words the message must contain, so that a
user learns what is wrong and where.
"""

import glob
import os
import re
import shutil
import subprocess
import unittest

from harness import ERROR, NOT_FOUND, OK, REFUSED, UNREACHABLE, USAGE, Cluster, program, wait_until

HEAD = "apiVersion: fathom/v1\nkind: Job\nmetadata: {name: bad}\n"
DATA = "  data: {token_file: TOKENS, sequence_length: 32}\n"
TOY = "  model: {preset: toy}\n" + DATA

# (what, job file, exit code, words of the message). A job file that can't be read is the command's
# fault (2); one that reads well and asks for what can't be is refused (4).
JOB_FILES = (
    ("is not YAML", HEAD + "spec: {model: [", USAGE, r"bad\.yaml:\d+"),
    ("has a wrong indent", HEAD + "spec:\n  model:\n preset: toy\n", USAGE, r"bad\.yaml:\d+"),
    ("is empty", "", USAGE, r"empty|apiVersion"),
    ("is a list", "- a\n- b\n", USAGE, r"."),
    ("has an unknown field", HEAD + "spec:\n" + TOY + "  colour: red\n", USAGE, r"7.*colour"),
    ("has a field misspelt deep inside", HEAD + "spec:\n" + TOY + "  training: {stepz: 4}\n", USAGE,
     r"stepz"),
    ("gives text for a number", HEAD + "spec:\n" + TOY + "  training: {steps: many}\n", USAGE,
     r"steps"),
    ("gives a number out of range",
     HEAD + "spec:\n" + TOY + "  parallelism: {pipeline: 99999999999}\n", USAGE, r"pipeline"),
    ("gives a key twice", HEAD + "spec:\n" + TOY + "  precision: fp32\n  precision: fp8\n", USAGE,
     r"precision"),
    ("is of another version", HEAD.replace("v1", "v9") + "spec:\n" + TOY, None, r"v9"),
    ("is of another kind", HEAD.replace("Job", "Cake") + "spec:\n" + TOY, None, r"Cake"),
    ("has a name that is no name", HEAD.replace("bad", "'Bad Name!'") + "spec:\n" + TOY, None,
     r"name"),
    ("names no preset there is", HEAD + "spec:\n  model: {preset: huge}\n" + DATA, None, r"huge"),
    ("names no precision there is", HEAD + "spec:\n" + TOY + "  precision: fp7\n", None, r"fp7"),
    ("names no data", HEAD + "spec:\n  model: {preset: toy}\n", None, r"token_file"),
    ("has an odd pipeline", HEAD + "spec:\n" + TOY + "  parallelism: {pipeline: 3}\n", None,
     r"pipeline"),
    ("has a negative number of steps", HEAD + "spec:\n" + TOY + "  training: {steps: -1}\n", None,
     r"steps"),
    ("has fewer micro-batches than DualPipe needs",
     HEAD + "spec:\n" + TOY + "  parallelism: {pipeline: 2}\n  training: {micro_batches: 2}\n",
     None, r"micro_batches"),
    ("spreads experts over ranks that don't divide them",
     HEAD + "spec:\n" + TOY + "  parallelism: {expert: 3}\n", None, r"expert"),
    ("has groups that don't divide the experts",
     HEAD + "spec:\n  model: {preset: toy, n_group: 3}\n" + DATA, None, r"n_group"),
    ("chooses more experts than there are",
     HEAD + "spec:\n  model: {preset: toy, num_experts_per_tok: 9}\n" + DATA, None,
     r"num_experts_per_tok"),
    ("has sizes that overflow",
     HEAD + "spec:\n  model: {preset: toy, hidden_size: 4611686018427387904}\n" + DATA, None,
     r"hidden_size"),
    ("asks for more ranks than can be counted",
     HEAD + "spec:\n" + TOY +
     "  parallelism: {pipeline: 2000000000, expert: 2000000000, replicas: 2000000000}\n", None,
     r"parallelism"),
    ("has a rope dimension that is odd",
     HEAD + "spec:\n  model: {preset: toy, qk_rope_head_dim: 7}\n" + DATA, None,
     r"qk_rope_head_dim"),
)


class Unchanged:
    """Holds a cluster to having the same jobs, events and files at the end as at the start."""

    def __init__(self, test, cluster):
        self._test = test
        self._cluster = cluster

    def _state(self):
        jobs = self._cluster.items("get", "jobs")
        events = len(self._cluster.items("get", "events"))
        return jobs, events, sorted(os.listdir(self._cluster.folder))

    def __enter__(self):
        self._before = self._state()

    def __exit__(self, kind, _error, _trace):
        if kind is None:
            self._test.assertEqual(self._state(), self._before, "something changed")


class BadInputTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.cluster = cls.enterClassContext(Cluster(nodes=1, ranks_per_node=2))
        cls.tokens = cls.cluster.token_file()

    def refused(self, result, codes, words):
        self.assertIn(result.returncode, codes, result.stdout + result.stderr)
        self.assertRegex(result.stderr, re.compile(words, re.S))
        self.assertNotRegex(result.stderr, r"Check failed|terminate called|Aborted")

    def path(self, name):
        return os.path.join(self.cluster.folder, name)

    def test_bad_job_file_is_refused(self):
        bad = self.path("bad.yaml")
        for what, text, code, words in JOB_FILES:
            with open(bad, "w", encoding="utf-8") as stream:
                stream.write(text.replace("TOKENS", self.tokens))
            for options in ((), ("--dry-run",)):
                with self.subTest(job=what, options=options), Unchanged(self, self.cluster):
                    result = self.cluster.ctl("submit", "-f", bad, *options, expect=None)
                    self.refused(result, (code,) if code else (USAGE, REFUSED), words)

    def test_job_file_that_is_not_there_is_named(self):
        with Unchanged(self, self.cluster):
            result = self.cluster.ctl("submit", "-f", self.path("nowhere.yaml"), expect=None)
            self.refused(result, (ERROR, USAGE, 3), r"nowhere\.yaml")

    def test_unknown_command_and_flag_are_usage_errors(self):
        with Unchanged(self, self.cluster):
            self.cluster.ctl("dance", expect=USAGE)
            self.cluster.ctl("get", "jobs", "--sideways", expect=USAGE)
            self.cluster.ctl("get", "moons", expect=USAGE)
            self.cluster.ctl("describe", "job", "nobody", expect=NOT_FOUND)

    # --- Token files ---

    def lying_token_files(self):
        """(what, path, words) of token files that are not what they say."""
        with open(self.tokens, "rb") as stream:
            good = stream.read()
        lies = (
            ("empty", b"", r"."),
            ("no token file", b"GIF89a" + b"x" * 4000, r"not a token file"),
            ("cut in its header", good[:100], r"."),
            ("cut in its tokens", good[:-1000], r"."),
            ("longer than it says", good + b"x" * 7, r"."),
            ("lying about its count", good[:16] + b"\xff" * 48 + good[64:], r"."),
        )
        for what, content, words in lies:
            path = self.path("lying.tokens")
            with open(path, "wb") as stream:
                stream.write(content)
            yield what, path, words

    def test_lying_token_file_is_refused(self):
        for what, path, words in self.lying_token_files():
            job = self.cluster.job_file("badtokens", data={"token_file": path})
            with self.subTest(tokens=what), Unchanged(self, self.cluster):
                for command in (("data", "info", path), ("data", "verify", path),
                                ("submit", "-f", job)):
                    result = self.cluster.ctl(*command, expect=None)
                    self.refused(result, (ERROR,), words)
                    self.assertIn("lying.tokens", result.stderr)

    def test_token_file_that_is_not_there_is_named(self):
        job = self.cluster.job_file("badtokens", data={"token_file": self.path("missing.tokens")})
        with Unchanged(self, self.cluster):
            result = self.cluster.ctl("submit", "-f", job, expect=None)
            self.refused(result, (NOT_FOUND,), r"missing\.tokens")

    def test_token_file_damaged_while_its_job_waits_fails_the_job(self):
        """What fathomctl saw is not what the ranks find: they look for themselves."""
        for what, damage in (("cut short", self.cut_short), ("gone", os.remove)):
            with self.subTest(tokens=what):
                path = self.path("late.tokens")
                shutil.copy(self.tokens, path)
                self.cluster.ctl("submit", "-f", self.cluster.job_file(
                    "first", training={"steps": 1000000}))
                self.cluster.ctl("submit", "-f", self.cluster.job_file(
                    "late", data={"token_file": path},
                    restart={"max_restarts_without_progress": 0}))
                damage(path)
                self.cluster.ctl("cancel", "first")
                result = self.cluster.ctl("wait", "late", expect=ERROR, seconds=90)
                job = self.cluster.job("late")
                self.assertEqual((job["state"], job["step"]), ("FAILED", 0))
                self.assertIn("late.tokens", job["reason"] + result.stderr)
                wait_until(lambda: not self.cluster.rank_pids(), 20, "its ranks are gone")

    def test_text_that_makes_no_token_file_is_refused(self):
        empty, binary = self.path("empty.txt"), self.path("binary.txt")
        with open(empty, "wb"):
            pass
        with open(binary, "wb") as stream:
            stream.write(bytes(range(256)) * 40)
        out = self.path("out.tokens")
        cases = (
            ((empty, "-o", out), r"empty\.txt|no (text|tokens|documents)"),
            ((binary, "-o", out), r"binary\.txt"),
            ((self.path("nowhere.txt"), "-o", out), r"nowhere\.txt"),
            ((self.cluster.folder, "-o", out), r"folder"),
            ((self.path("text.txt"), "-o", self.path("no/such/folder/out.tokens")), r"folder"),
            ((self.path("text.txt"), "-o", empty), r"empty\.txt"),
            ((self.path("text.txt"), "-o", out, "--tokenizer", binary), r"binary\.txt"),
            ((self.path("text.txt"), "-o", out, "--validation-fraction", "2"), r"fraction"),
        )
        for arguments, words in cases:
            with self.subTest(arguments=arguments), Unchanged(self, self.cluster):
                result = self.cluster.ctl("data", "prepare", *arguments, expect=None)
                self.refused(result, (ERROR, USAGE, NOT_FOUND, REFUSED), words)

    # --- Checkpoints ---

    def test_corrupt_checkpoint_is_found_and_not_trusted(self):
        saved = self.path("saved")
        self.cluster.train("source", checkpoint={"directory": saved})
        manifest = glob.glob(os.path.join(saved, "**", "*manifest*.json"), recursive=True)[0]
        self.cluster.ctl("checkpoint", "verify", manifest)
        for what, damage in (("one bit", self.flip_bit), ("cut short", self.cut_short),
                             ("gone", os.remove)):
            with self.subTest(shard=what):
                copy = self.path("damaged")
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(os.path.dirname(manifest), copy)
                shard = sorted(glob.glob(os.path.join(copy, "**", "*.safetensors"),
                                         recursive=True))[0]
                damage(shard)
                damaged = os.path.join(copy, os.path.basename(manifest))
                result = self.cluster.ctl("checkpoint", "verify", damaged, expect=None)
                self.assertNotEqual(result.returncode, OK)
                self.assertIn(os.path.basename(shard), result.stderr)
                result = self.cluster.ctl(
                    "submit", "-f", self.cluster.job_file(
                        "resumer", checkpoint={"resume_from": damaged},
                        restart={"max_restarts_without_progress": 0}),
                    "--wait", expect=None, seconds=90)
                self.assertNotEqual(result.returncode, OK)
                if result.returncode == ERROR:
                    self.assertIn(os.path.basename(shard), self.cluster.job("resumer")["reason"])
        self.cluster.ctl("checkpoint", "verify", manifest)

    @staticmethod
    def flip_bit(path):
        with open(path, "r+b") as stream:
            stream.seek(-5, os.SEEK_END)
            byte = stream.read(1)[0]
            stream.seek(-1, os.SEEK_CUR)
            stream.write(bytes([byte ^ 4]))

    @staticmethod
    def cut_short(path):
        os.truncate(path, os.path.getsize(path) - 8)

    def test_manifest_of_another_shape_is_refused(self):
        saved = self.path("othershape")
        self.cluster.train("small", checkpoint={"directory": saved})
        manifest = glob.glob(os.path.join(saved, "**", "*manifest*.json"), recursive=True)[0]
        result = self.cluster.ctl(
            "submit", "-f", self.cluster.job_file(
                "wider", model={"preset": "toy", "hidden_size": 64},
                checkpoint={"resume_from": manifest},
                restart={"max_restarts_without_progress": 0}),
            "--wait", expect=None, seconds=90)
        self.assertNotEqual(result.returncode, OK)
        said = result.stderr
        if result.returncode == ERROR:
            said += self.cluster.job("wider")["reason"]
        self.assertRegex(said, r"shape|elements|tensor")

    # --- Places that are not there ---

    def test_coordinator_that_is_not_there_is_said_to_be(self):
        job = self.cluster.job_file()
        for address in ("127.0.0.1:1", "127.0.0.1:9"):
            with self.subTest(address=address), Unchanged(self, self.cluster):
                for command in (("get", "jobs"), ("submit", "-f", job)):
                    result = self.cluster.ctl(*command, "--coordinator", address, expect=None)
                    self.refused(result, (UNREACHABLE,), re.escape(address))

    def test_address_that_is_none_is_a_usage_error(self):
        for address in ("nonsense", "127.0.0.1:99999", "127.0.0.1:"):
            with self.subTest(address=address), Unchanged(self, self.cluster):
                result = self.cluster.ctl("get", "jobs", "--coordinator", address, expect=None)
                self.refused(result, (USAGE, UNREACHABLE), re.escape(address))

    def test_daemons_refuse_what_they_cannot_do(self):
        state = self.path("daemon")
        coordinator = program("coordinator/service/fathom-coordinator")
        worker = program("worker/agent/fathom-worker")
        cases = (
            ("an open address without TLS",
             [coordinator, "--listen-address", "0.0.0.0:0", "--state-directory", state],
             r"TLS|tls|certificate"),
            ("no state folder", [coordinator, "--listen-address", "127.0.0.1:0"],
             r"state.directory"),
            ("an unknown flag", [coordinator, "--frobnicate"], r"frobnicate"),
            ("an unknown flag", [worker, "--frobnicate"], r"frobnicate"),
            ("no coordinator's address", [worker, "--state-directory", state],
             r"coordinator.address"),
        )
        for what, command, words in cases:
            with self.subTest(daemon=os.path.basename(command[0]), given=what):
                result = subprocess.run(command, env=self.cluster.environment, text=True,
                                        capture_output=True, timeout=30)
                self.assertNotEqual(result.returncode, 0)
                self.assertRegex(result.stderr, words)
        self.assertEqual(self.files_below(state), [])

    @staticmethod
    def files_below(folder):
        return [name for _, _, names in os.walk(folder) for name in names]

    def test_second_coordinator_over_the_same_state_is_refused(self):
        with Unchanged(self, self.cluster):
            result = subprocess.run(
                [program("coordinator/service/fathom-coordinator"), "--listen-address",
                 "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--state-directory",
                 os.path.join(self.cluster.state, "coordinator")],
                env=self.cluster.environment, text=True, capture_output=True, timeout=30)
            self.assertNotEqual(result.returncode, 0)
            self.assertRegex(result.stderr, r"lock|another")

    def test_second_cluster_over_the_same_ports_is_refused(self):
        address = self.cluster.coordinator()["address"]
        with Cluster.unstarted(nodes=1) as other:
            result = other.ctl("local", "up", "--nodes", "1", "--coordinator-port",
                               address.rsplit(":", 1)[1], "--metrics-port", "0", expect=None)
            self.assertNotEqual(result.returncode, OK)
            self.assertRegex(result.stderr, r"in use|another|listen")


class FullDiskTest(unittest.TestCase):
    """A file system of a few hundred kilobytes, in a mount namespace that nothing else sees."""

    SCRIPT = 'mkdir -p "$1" && mount -t tmpfs -o size="$2"k tmpfs "$1" && shift 2 && "$@"'

    def on_small_disk(self, cluster, folder, kilobytes, *command, seconds=60):
        return subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", self.SCRIPT, "sh",
             folder, str(kilobytes), *command],
            env=cluster.environment, cwd=cluster.folder, capture_output=True, text=True,
            timeout=seconds)

    def test_data_prepare_says_so_and_leaves_no_file(self):
        with Cluster() as cluster:
            text = os.path.join(cluster.folder, "text.txt")
            cluster.token_file()
            folder = os.path.join(cluster.folder, "small")
            result = self.on_small_disk(
                cluster, folder, 64, "sh", "-c",
                f'"{program("cli/fathomctl")}" data prepare "{text}" -o small/out.tokens; '
                'code=$?; ls -A small; exit $code')
            self.assertEqual(result.returncode, ERROR, result.stderr)
            self.assertRegex(result.stderr, r"[Nn]o space left")
            self.assertIn("out.tokens", result.stderr)
            self.assertEqual(result.stdout.strip(), "", "something was left on the full disk")

    def test_checkpoint_on_a_full_disk_fails_the_job_with_the_reason(self):
        cluster = Cluster(nodes=1, ranks_per_node=2)
        full = os.path.join(cluster.folder, "full")
        cluster.launcher = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                            self.SCRIPT, "sh", full, "32"]
        with cluster:
            result = cluster.ctl("submit", "-f", cluster.job_file(
                "unsaved", checkpoint={"directory": full},
                restart={"max_restarts_without_progress": 0}), "--wait", expect=None, seconds=120)
            self.assertEqual(result.returncode, ERROR, result.stdout + result.stderr)
            job = cluster.job("unsaved")
            self.assertEqual(job["state"], "FAILED")
            self.assertRegex(job["reason"], r"[Nn]o space left")
            wait_until(lambda: not cluster.rank_pids(), 20, "its rank processes are gone")

    def test_coordinator_with_a_full_disk_acknowledges_nothing(self):
        cluster = Cluster(nodes=1, ranks_per_node=2)
        cluster.launcher = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
                            self.SCRIPT, "sh", cluster.state, "4096"]
        with cluster:
            address = cluster.coordinator()["address"]
            job = cluster.job_file("unlogged")
            # A file that fills what is left, seen from inside the coordinator's own namespace.
            filler = cluster.inside("filler")
            with self.assertRaises(OSError):
                with open(filler, "wb", buffering=0) as stream:
                    while True:
                        stream.write(b"x" * 4096)
            result = cluster.ctl("submit", "-f", job, "--coordinator", address, expect=None)
            self.assertNotEqual(result.returncode, OK, "acknowledged what is not durable")
            self.assertRegex(result.stderr, r"full|space|durable")
            os.remove(filler)
            # Given space again it takes the same job, and has no other.
            cluster.ctl("submit", "-f", job, "--coordinator", address)
            self.assertEqual(
                [item["name"] for item in cluster.items("get", "jobs", "--coordinator", address)],
                ["unlogged"])


if __name__ == "__main__":
    unittest.main()
