"""``make bench-regress REV=...``: CPU a message of a revision against HEAD, in interleaved pairs of short runs.

Both trees come from git, neither is the working copy.  Exit code 1: HEAD needs over 10 per cent more; 2: cannot run.
``ARGS="--rules 2000 --domains 100000"``: HEAD has so many rules for replies, and mail queued for so many domains whose
server does not answer; the other has neither.  ``ARGS=--feeds``: HEAD has its events in a file and posted to a webhook,
which the other has not; statistics are always on.
"""

import argparse
import io
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench import backlog, load, processes, relay, tools
from bench.__main__ import WORK, workplace
from bench.table import ratio

ALLOWED = 1.10


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench-regress REV=...", description="CPU a message of REV and of HEAD.")
    parser.add_argument("rev", metavar="REV", help="the revision to compare HEAD with, such as HEAD~1")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--count", type=int, default=3000, help="messages of each run")
    parser.add_argument("--rules", type=int, default=0, help="rules for replies that HEAD has")
    parser.add_argument("--domains", type=int, default=0, help="domains for which HEAD has mail queued")
    parser.add_argument("--feeds", action="store_true", help="HEAD has a file of events and a webhook")
    return parser.parse_args(argv)


def main() -> int:
    given = arguments()
    try:
        unpacked = tools.prepare(WORK)
        with workplace() as home:
            return _compared(unpacked, home, given)
    except (tools.Unavailable, processes.Failed) as fault:
        print(f"make bench-regress: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _compared(unpacked: tools.Tools, home: Path, given: argparse.Namespace) -> int:
    with ExitStack() as stack:
        sides = []
        for name, rev in (("base", given.rev), ("head", "HEAD")):
            commit = _tree(rev, home / f"{name}-tree")
            sink = stack.enter_context(load.smtp_sink(unpacked, home / f"{name}-sink"))
            extra = ""
            if name == "head" and given.domains:
                backlog.fill(home / name / "spool", given.domains, time.time() - 60, domains=given.domains)
                extra += f'[[route]]\ndomain = "*.queued.example"\nvia = "127.0.0.1:{processes.free_port()}"\n'
            if name == "head":
                extra += "".join(map(_rule, range(given.rules)))
            if name == "head" and given.feeds:
                extra += _FEEDS.format(path=home / "events.jsonl")
            tree = home / f"{name}-tree"
            node = stack.enter_context(relay.started(home / name, sink.port, extra=extra, tree=tree))
            if name == "head" and given.feeds:
                stack.enter_context(_webhook(node))
            print(f"{name}: {rev}, {commit[:12]}")
            sides.append((node, sink))
        processes.until(
            lambda: all(map(_rests, (node for node, _ in sides))), 120, "both have looked at what is queued"
        )
        cpu: tuple[list[float], list[float]] = ([], [])
        for turn in range(given.pairs + 1):
            for n in (0, 1) if turn % 2 else (1, 0):
                run = load.run(unpacked, *sides[n], given.count if turn else 500, 4096, kept=True)
                if turn:
                    cpu[n].append(run.cpu)
            if turn:
                print(f"  {cpu[0][-1]:6,.0f} : {cpu[1][-1]:6,.0f} us a message", flush=True)
    found = ratio(cpu[1], cpu[0])
    verdict = "well" if found <= ALLOWED else f"TOO MUCH: {ALLOWED:.2f} is allowed"
    print(f"{median(cpu[0]):,.0f} : {median(cpu[1]):,.0f} us of CPU a message, ratio {found:.3f}, {verdict}")
    return 0 if found <= ALLOWED else 1


_FEEDS = """
[feed.log]
type = "file"
path = "{path}"

[webhooks]
allow = ["127.0.0.0/8"]
"""


@contextmanager
def _webhook(node: relay.Relayd) -> Iterator[None]:
    """All events of the account are posted while the block lasts."""
    port = processes.free_port()
    command = [sys.executable, "-m", "bench.receiver", str(port)]
    with processes.running(command, node.home / "receiver.log", dict(os.environ), relay.ROOT):
        processes.until(lambda: processes.answers(port), 20, "the receiver starts")
        events = ["queued", "delivered", "deferred", "bounced"]
        url = f"http://127.0.0.1:{port}/"
        node.ask("POST", "/v1/webhook/add", name="bench", account="crm", url=url, event=events)
        yield


def _rule(number: int) -> str:
    """One of very many: each provider has some ten."""
    provider = f"p{number // 10}"
    table = f'[provider.{provider}]\nmatch = ["*.{provider}.example"]\n' if number % 10 == 0 else ""
    rule = f'[reaction.r{number}]\nprovider = "{provider}"\ncodes = "4xx"\ntext = "too (fast|many) {number}"\n'
    return f'{table}{rule}action = "suspend"\nfor = "1h"\n'


def _rests(node: relay.Relayd) -> bool:
    """Whether it does next to nothing."""
    before = node.cpu()
    time.sleep(1)
    return node.cpu() - before < 50_000


def _tree(rev: str, directory: Path) -> str:
    """Unpacks a revision; gives its commit.  Nothing is left in the repository.  Raises Failed."""
    commit = _said("git", "rev-parse", "--verify", "--quiet", f"{rev}^{{commit}}").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(_said("git", "archive", "--format=tar", commit))) as archive:
        archive.extractall(directory, filter="data")
    # It is that tree which runs, not the installed one.
    question = [sys.executable, "-c", "import relayd; print(relayd.__file__)"]
    environment = {**os.environ, "PYTHONPATH": str(directory)}
    where = subprocess.run(question, cwd=directory, env=environment, capture_output=True, text=True, check=False).stdout
    if not where.startswith(str(directory)):
        raise processes.Failed(f"{rev} cannot be run beside the installed relayd: {where or 'it has none'}")
    return commit


def _said(*command: str) -> bytes:
    done = subprocess.run(command, cwd=relay.ROOT, capture_output=True, check=False)
    if done.returncode:
        raise processes.Failed(
            f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip() or 'no such revision'}"
        )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
