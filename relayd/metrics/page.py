"""docs/metrics.md, made of the table."""

from relayd.metrics.collector import FAULTS
from relayd.metrics.table import SECTIONS

_INTRODUCTION = """\
# The metrics of relayd

What `/metrics` tells. `make docs` writes this page from `relayd/metrics/table.py`, the table that is served; how to
switch it on, with a dashboard and alerts: [Watch it with Prometheus](operations.md#watch-it-with-prometheus).

Counters begin with 0 at each start. `process_*` and `python_*` are of prometheus-client, for the process. No label
names an account, a connection, a domain or a site: these are in the records, and in `relayctl`. A provider is one of
`[provider.NAME]`, all the others are "other"; so is what goes beyond 200 sources or 100 providers.
"""


def page() -> str:
    lines = [_INTRODUCTION.rstrip()]
    sections = {**SECTIONS, "The metrics themselves": (FAULTS,)}
    for title, rows in sections.items():
        lines += ["", f"## {title}", "", "| metric | type | labels | what it says |", "|---|---|---|---|"]
        for row in rows:
            labels = ", ".join(f"`{label}`" for label in row.labels)
            lines.append(f"| `{row.name}` | {row.kind} | {labels} | {row.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
