#!/usr/bin/python3
"""Searched schedules of small pipelines beside the optimum that an exact solver proves.

The pipeline is written down here a second time, as an integer program over points in time that
knows nothing of instruction lists: each op has started by a time or not, a rank does one op at a
time, activations are held from a forward's start to its weight gradient's end. Debian's cbc solves
it. A searched schedule quicker than the optimum would mean that this model or the simulator is
wrong; one slower by more than 3% that the search is poor.

    searched_is_near_the_optimum_test.py [--fathomctl PROGRAM] [--table]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

ALLOWED = 1.03
SOLVER_SECONDS = 60  # of one case, on a busy machine; each takes a few on a quiet one

# family, ranks, micro-batches, activations, message time, then of each stage F, B, W (and FB, where
# pairs may save).
CASES = [
    ("loop", 2, 2, 2, 0, [2, 2], [2, 2], [2, 2]),
    ("loop", 2, 4, 3, 0, [1, 2], [2, 3], [1, 1]),
    ("loop", 2, 6, 2, 1, [2, 3], [2, 3], [2, 2]),
    ("loop", 2, 6, 3, 0, [1, 3], [3, 2], [2, 1]),
    ("loop", 3, 3, 3, 0, [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    ("loop", 3, 4, 4, 0, [2, 1, 3], [2, 2, 3], [1, 1, 2]),
    ("loop", 3, 5, 3, 1, [1, 2, 1], [2, 2, 2], [1, 2, 1]),
    ("loop", 3, 6, 3, 0, [1, 2, 2], [1, 2, 3], [1, 1, 2]),
    ("loop", 4, 2, 2, 0, [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]),
    ("loop", 4, 4, 4, 0, [1, 1, 1, 2], [1, 1, 1, 2], [1, 1, 1, 2]),
    ("loop", 4, 5, 5, 0, [1, 1, 2, 1], [2, 2, 3, 2], [1, 1, 2, 1]),
    ("loop", 4, 6, 4, 0, [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]),
    ("v", 2, 2, 3, 0, [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]),
    ("v", 2, 3, 4, 0, [1, 2, 1, 1], [1, 2, 2, 1], [1, 1, 1, 1]),
    ("v", 2, 4, 6, 1, [1, 1, 1, 2], [1, 1, 2, 2], [1, 1, 1, 2]),
    ("v", 3, 3, 6, 0, [1, 1, 1, 1, 1, 2], [1, 1, 1, 1, 1, 2], [1, 1, 1, 1, 1, 1]),
    ("v", 3, 4, 5, 0, [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]),
    ("bidirectional", 2, 4, 3, 0, [1, 2], [2, 3], [1, 1]),
    ("bidirectional", 4, 4, 3, 0, [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]),
    ("bidirectional", 4, 6, 4, 0, [1, 1, 2, 1], [1, 1, 2, 2], [1, 1, 1, 1]),
    ("loop", 2, 4, 3, 0, [2, 2], [2, 2], [2, 2], [5, 5]),
    ("loop", 2, 5, 4, 0, [2, 3], [2, 3], [2, 2], [5, 6]),
    ("loop", 3, 4, 5, 0, [2, 2, 2], [2, 2, 2], [2, 2, 2], [4, 5, 4]),
    ("bidirectional", 2, 4, 4, 0, [2, 2], [2, 2], [2, 2], [5, 5]),
]


class Mode:
    """A way to run an op: alone, or as a half of a pair, which is a mode of three ops at once."""

    def __init__(self, name, rank, duration):
        self.name = name
        self.rank = rank
        self.duration = duration
        self.head = 0       # least start
        self.latest = None  # has started by then in any case; None: it may not be the way taken


class Op:
    """One op: when it starts, and how, is for the solver to say."""

    def __init__(self, key, rank, duration):
        self.kind = key[0]
        self.alone = Mode("_".join(map(str, key)), rank, duration)
        self.modes = [self.alone]
        self.before = []  # (op, time from its end until this one may start)
        self.head = 0     # least start
        self.tail = 0     # least time from its start to the end of all

    @property
    def rank(self):
        return self.alone.rank


class Pipeline:
    """The ops of a step and what they wait for."""

    def __init__(self, case):
        self.family, self.ranks, self.batches, self.most, self.delay = case[:5]
        self.costs = dict(zip(("F", "B", "W", "FB"), case[5:]))
        self.directions = 2 if self.family == "bidirectional" else 1
        self.stages = len(case[5])
        self.each = self.batches // self.directions
        self.ops = {}
        for direction in range(self.directions):
            for stage in range(self.stages):
                for batch in range(self.each):
                    for kind in "FBW":
                        key = (kind, direction, stage, batch)
                        rank = self.rank_of(direction, stage)
                        self.ops[key] = Op(key, rank, self.costs[kind][stage])
        for key, op in self.ops.items():
            self.connect(op, *key)
        self.measure()
        self.pairs = self.add_pairs() if "FB" in self.costs else []

    def rank_of(self, direction, stage):
        lap, place = divmod(stage, self.ranks)
        back = direction == 1 or (self.family == "v" and lap == 1)
        return self.ranks - 1 - place if back else place

    def connect(self, op, kind, direction, stage, batch):
        def wait(*key):
            if key in self.ops:
                source = self.ops[key]
                op.before.append((source, 0 if source.rank == op.rank else self.delay))

        # Weight gradients that pairs take over have no place among the others.
        if kind != "W" or "FB" not in self.costs:
            wait(kind, direction, stage, batch - 1)
        if kind == "F":
            wait("F", direction, stage - 1, batch)
        if kind == "B":
            wait("F", direction, stage, batch)
            wait("B", direction, stage + 1, batch)
        if kind == "W":
            wait("B", direction, stage, batch)

    def add_pairs(self):
        pairs = []
        for (kind, direction, stage, batch), forward in self.ops.items():
            for (other, back, at, number), backward in self.ops.items():
                if (kind, other) != ("F", "B") or forward.rank != backward.rank:
                    continue
                if (direction, stage) == (back, at) and number >= batch:
                    continue
                saved = [self.costs["F"][i] + self.costs["B"][i] + self.costs["W"][i] -
                         self.costs["FB"][i] for i in (stage, at)]
                duration = (self.costs["F"][stage] + self.costs["B"][at] + self.costs["W"][at] -
                            sum(saved) / 2)
                assert duration == int(duration), "times are whole numbers"
                pair = Mode(f"{forward.alone.name}_{backward.alone.name}", forward.rank,
                            int(duration))
                pair.head = max(forward.head, backward.head)
                for op in (forward, backward, self.ops[("W", back, at, number)]):
                    op.modes.append(pair)
                pairs.append(pair)
        return pairs

    def measure(self):
        ordered, seen = [], set()

        def visit(op):
            if id(op) not in seen:
                seen.add(id(op))
                for source, _ in op.before:
                    visit(source)
                ordered.append(op)

        for op in self.ops.values():
            visit(op)
        for op in ordered:
            op.head = max([source.head + source.alone.duration + delay
                           for source, delay in op.before], default=0)
            op.alone.head = op.head
        for op in reversed(ordered):
            op.tail = max(op.tail, op.alone.duration)
            for source, delay in op.before:
                source.tail = max(source.tail, source.alone.duration + delay + op.tail)


class Program:
    """An integer program in LP format, of variables that say whether a mode started by a time."""

    def __init__(self, pipeline, horizon):
        self.pipeline = pipeline
        self.horizon = horizon
        self.lines = []
        self.names = set()
        for op in pipeline.ops.values():
            if len(op.modes) == 1:
                op.alone.latest = horizon - op.tail

    def started(self, mode, at, sign=1):
        """Terms (factor, variable); the variable is None for the constant 1."""
        if at < mode.head:
            return []
        if mode.latest is not None and at >= mode.latest:
            return [(sign, None)]
        name = f"y_{mode.name}_{min(at, self.horizon)}"
        self.names.add(name)
        return [(sign, name)]

    def op_started(self, op, at, sign=1):
        return [term for mode in op.modes for term in self.started(mode, at, sign)]

    def op_ended(self, op, at, sign=1):
        return [term for mode in op.modes
                for term in self.started(mode, at - mode.duration, sign)]

    def limit(self, terms, most, relation="<="):
        constant = sum(factor for factor, name in terms if name is None)
        text = " ".join(f"{'+' if factor > 0 else '-'} {name}" for factor, name in terms if name)
        if text:
            self.lines.append(f" {text} {relation} {most - constant}")
        elif constant > most or (relation == "=" and constant != most):
            self.lines.append(" impossible >= 1")

    def order(self):
        modes = {mode.name: mode for op in self.pipeline.ops.values() for mode in op.modes}
        for op in self.pipeline.ops.values():
            if len(op.modes) > 1:
                late = [t for mode in op.modes
                        for t in self.started(mode, self.horizon - op.tail)]
                self.limit(late, 1, "=")
            for at in range(op.head, self.horizon - op.tail + 1):
                for source, delay in op.before:
                    if op.kind == "W" and source.kind == "B":
                        # In a pair both happen at once.
                        before = self.started(source.alone, at - source.alone.duration, -1)
                        self.limit(self.started(op.alone, at) + before, 0)
                    else:
                        self.limit(self.op_started(op, at) +
                                   self.op_ended(source, at - delay, -1), 0)
        for mode in modes.values():
            for at in range(mode.head, (mode.latest or self.horizon) + 1):
                self.limit(self.started(mode, at - 1) + self.started(mode, at, -1), 0)

    def share(self):
        """A rank does one thing at a time and holds so many activations."""
        for rank in range(self.pipeline.ranks):
            own = [op for op in self.pipeline.ops.values() if op.rank == rank]
            modes = {mode.name: mode for op in own for mode in op.modes}.values()
            for at in range(self.horizon):
                running, held = [], []
                for mode in modes:
                    running += self.started(mode, at)
                    running += self.started(mode, at - mode.duration, -1)
                self.limit(running, 1)
                for op in own:
                    if op.kind == "F":
                        held += self.op_started(op, at)
                    if op.kind == "W":
                        held += self.op_ended(op, at, -1)
                self.limit(held, self.pipeline.most)

    def text(self):
        self.order()
        self.share()
        over = [f"z_{at}" for at in range(self.horizon)]
        for op in self.pipeline.ops.values():
            if op.kind != "W":
                continue
            for at, name in enumerate(over):
                # Until all has ended, the step goes on.
                self.limit([(-1, name)] + [(-factor, variable)
                                           for factor, variable in self.op_ended(op, at)], -1)
        return "\n".join(["Minimize", " makespan: " + " + ".join(over), "Subject To",
                          *self.lines, "Bounds", " impossible = 0", "Binaries",
                          *(f" {name}" for name in sorted(self.names) + over), "End", ""])


def optimum(pipeline, horizon, folder):
    """The proven least makespan, which is at most `horizon`."""
    path = os.path.join(folder, "program.lp")
    answer = os.path.join(folder, "answer.txt")
    with open(path, "w", encoding="ascii") as stream:
        stream.write(Program(pipeline, horizon).text())
    subprocess.run(["cbc", path, "sec", str(SOLVER_SECONDS), "solve", "solution", answer],
                   check=True, capture_output=True, text=True)
    with open(answer, encoding="ascii") as stream:
        status = stream.readline()
    if not status.startswith("Optimal"):
        raise AssertionError(f"cbc proved nothing: {status.strip()}")
    return round(float(status.split()[-1]))


def searched(program, case):
    family, ranks, batches, most, delay = case[:5]
    costs = ";".join(f"{name}={','.join(map(str, numbers))}"
                     for name, numbers in zip(("F", "B", "W", "FB"), case[5:]))
    result = subprocess.run(
        [program, "schedule", "--kind", "searched", "--family", family, "--ranks", str(ranks),
         "--micro-batches", str(batches), "--max-activations", str(most), "--message-time",
         str(delay), "--stage-costs", costs, "-o", "json"],
        check=True, capture_output=True, text=True)
    found = json.loads(result.stdout)
    assert max(found["peak_activations"]) <= most, found["peak_activations"]
    return found["makespan"]


def main(arguments):
    parser = argparse.ArgumentParser(description="Searched schedules beside proven optima.")
    parser.add_argument("--fathomctl", default="cli/fathomctl")
    parser.add_argument("--table", action="store_true", help="print Markdown")
    parser.add_argument("--only", type=int, help="this case alone")
    options = parser.parse_args(arguments)
    failed = 0
    if options.table:
        print("| placement | ranks | micro-batches | activations | message "
              "| F / B / W / FB by stage | searched | optimum |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            if options.only not in (None, number):
                continue
            began = time.monotonic()
            makespan = searched(options.fathomctl, case)
            least = optimum(Pipeline(case), round(makespan), folder)
            good = least <= makespan <= ALLOWED * least
            failed += not good
            if options.table:
                costs = " / ".join(" ".join(map(str, numbers)) for numbers in case[5:])
                print(f"| {' | '.join(map(str, case[:5]))} | {costs} | {makespan:g} | {least} |")
            else:
                print(f"case {number} {case[:5]}: searched {makespan:g}, optimum {least}, "
                      f"{time.monotonic() - began:.1f} s{'' if good else ': WRONG'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
