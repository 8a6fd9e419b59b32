#!/usr/bin/python3
"""What quickstart.sh reads out of fathomctl's JSON.

    quickstart_summary.py unfinished NAME < JOBS       names of jobs called NAME that have not ended
    quickstart_summary.py summary JOB DATA NODES RANKS_PER_NODE [FILE]
                                                       prints the summary; writes it to FILE as JSON
"""

import datetime
import json
import sys

ENDED = ("COMPLETED", "FAILED", "CANCELLED")


def unfinished(jobs, name):
    return sorted({job["name"] for job in jobs if job["name"] == name
                   and job["state"] not in ENDED})


def tokens_per_second(job):
    """Over the whole of its training, validations and checkpoints included."""
    began, ended = (datetime.datetime.fromisoformat(job[key].replace("Z", "+00:00"))
                    for key in ("started", "finished"))
    seconds = max((ended - began).total_seconds(), 1)
    return round(job["step"] * job["last_step"]["tokens"] / seconds, 1)


def summary_of(job, data, nodes, ranks_per_node):
    return {
        "final_loss": job["loss"],
        "validation_loss": job["validation_loss"],
        "unigram_entropy": data["unigram_entropy"],
        "bigram_entropy": data["bigram_entropy"],
        "steps": job["step"],
        "tokens_per_second": tokens_per_second(job),
        "nodes": nodes,
        "ranks": nodes * ranks_per_node,
        "weights_sha256": job["weights_sha256"],
    }


def report(summary):
    """The summary for people; losses and entropies are nats per byte."""
    yield f"steps            {summary['steps']}, on {summary['nodes']} nodes with " \
          f"{summary['ranks']} ranks"
    yield f"final loss       {summary['final_loss']:.4f}"
    yield f"validation loss  {summary['validation_loss']:.4f}   nats per byte, on held-out text"
    yield f"  to hold it against: unigram entropy {summary['unigram_entropy']:.4f}, " \
          f"bigram entropy {summary['bigram_entropy']:.4f}"
    if summary["validation_loss"] < summary["bigram_entropy"]:
        yield "  the model knows more than which byte follows which"
    yield f"tokens/s         {summary['tokens_per_second']:.0f}"
    yield f"weights          sha256 {summary['weights_sha256']}"


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "unfinished":
        for name in unfinished(json.load(sys.stdin)["items"], arguments[1]):
            print(name)
        return 0
    if len(arguments) in (5, 6) and arguments[0] == "summary":
        with open(arguments[1], encoding="utf-8") as stream:
            job = json.load(stream)
        with open(arguments[2], encoding="utf-8") as stream:
            data = json.load(stream)
        summary = summary_of(job, data, int(arguments[3]), int(arguments[4]))
        print("\n".join(report(summary)))
        if len(arguments) == 6:
            with open(arguments[5], "w", encoding="utf-8") as stream:
                json.dump(summary, stream, indent=2)
                stream.write("\n")
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
