"""The house stands as it was drawn: who may import whom, what stays above the Twisted line, a test for each file."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RELAYD = ROOT / "relayd"

# Each line is a step: its rooms import only rooms of the lines before it, never one another.
FLOORS: dict[str, list[str]] = {
    "words": ["address envelope errors histogram identity lease notation reply", "catalogue outcome", "records"],
    "protocol": ["smtp message returnpath", "classify feedback shaping verification"],
    "engine": [
        "database echoes guard quotas reputation suspicion validation warmup",
        "directory egress queue spool suppression",
        "backup events purse submission",
        "history schema signing",
        "statistics",
    ],
    # Twisted lives only from here on.
    "shell": [
        "pulse resolver tls transport waiting watchdog",
        "feeds process webclient workers",
        "exports webhooks",
        "blocklists contentfilter control credentials domainwatch listener",
        "delivery reception sandbox ssh",
        "health mailroom notices",
        "metrics suspects",
    ],
    "assembly": [
        "completion tables",
        "config",
        "destinations local streams ways",
        "assembly ctl inquiry quickstart sessions",
        "options reference stops subjects traces",
        "consequences",
        "operations",
        "doors",
        "service",
    ],
}
BELOW_THE_LINE = ("words", "protocol", "engine")
STEPS = [step.split() for steps in FLOORS.values() for step in steps]
ROOMS_BELOW = {room for floor in BELOW_THE_LINE for step in FLOORS[floor] for room in step.split()}

# What a room below the line may not touch: everything comes to it as arguments.
FORBIDDEN = {
    "asyncio",
    "OpenSSL",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "time",
    "twisted",
    "zope",
}
# (room, module): why it may all the same.
PERMITTED = {
    ("directory", "secrets"): "salts and passwords are made where they are hashed; tests pass their own",
    ("history", "time"): "its thread shows when it was last alive",
    ("spool", "time"): "its threads show when they were last alive, wait out a full disk and date their files",
}
# ``random.Random`` is the type of an argument; anything else of the module is somebody's hidden dice.
TYPES_ONLY = {"random": {"Random"}}

# A file's twin is tests/test_FILE.py, test_ROOM_FILE.py or test_ROOM.py; these are tested by others' twins.
TESTED_BY = {
    "consequences.py": "test_reputation_at_work.py",
    "doors.py": "test_service.py",
    "operations.py": "test_service.py",
    "options.py": "test_service.py",
    "process.py": "test_watchdog.py",
    "delivery/generated.py": "test_outcomes.py",
    "notices.py": "test_suspects.py",
    "errors.py": "test_directory.py",
    "smtp/lines.py": "test_smtp_server.py",
    "smtp/parameters.py": "test_smtp_server.py",
    "envelope.py": "test_spool.py",
    "outcome.py": "test_smtp_client.py",
    "directory/rows.py": "test_directory.py",
    "history/work.py": "test_workers.py",
    "inquiry.py": "test_service.py",
    "control/blocks.py": "test_stops.py",
    "control/backups.py": "test_backup.py",
    "spool/files.py": "test_spool.py",
    "queue/decisions.py": "test_scheduler.py",
    "queue/limiter.py": "test_scheduler.py",
    "queue/line.py": "test_meter.py",
    "queue/loading.py": "test_scheduler.py",
    "queue/memory.py": "test_scheduler.py",
    "queue/reasons.py": "test_scheduler.py",
    "queue/restraints.py": "test_scheduler_shaping.py",
    "queue/state.py": "test_scheduler.py",
    "tables.py": "test_config.py",
}

TESTS = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
FILES = sorted(path for path in RELAYD.rglob("*.py"))


def short(path: Path) -> str:
    return str(path.relative_to(RELAYD))


def room_of(path: Path) -> str:
    return path.relative_to(RELAYD).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Full names of what a file imports, ``relayd.x`` for ``from relayd import x``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "relayd" else [module]


def rooms_used(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    rooms = {words[1] for words in parts if words[0] == "relayd" and len(words) > 1}
    return {room for room in rooms if not room.startswith("__")} - {room_of(path)}


def modules_used(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_every_room_has_one_place_in_the_house() -> None:
    drawn = [room for step in STEPS for room in step]
    assert sorted(drawn) == sorted(set(drawn))
    assert set(drawn) == {room_of(path) for path in FILES} - {"__init__"}


@pytest.mark.parametrize("path", FILES, ids=short)
def test_a_room_imports_only_rooms_on_lower_steps(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not rooms_used(path)
        return
    below: set[str] = set()
    for step in STEPS:
        if room in step:
            break
        below |= set(step)
    assert rooms_used(path) <= below


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in ROOMS_BELOW], ids=short)
def test_below_the_twisted_line_nothing_reaches_for_reactor_socket_clock_or_dice(path: Path) -> None:
    room = room_of(path)
    used = {module for module in modules_used(path) & FORBIDDEN if (room, module) not in PERMITTED}
    assert used <= set(TYPES_ONLY)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in used:
            assert node.attr in TYPES_ONLY[node.value.id], f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # random.Random() would be dice of one's own; datetime.now() a clock by another name.
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            assert owner not in used, f"line {node.lineno}"
            assert (owner, node.func.attr) not in _CLOCKS, f"line {node.lineno}"


_CLOCKS = {(owner, call) for owner in ("datetime", "date") for call in ("now", "utcnow", "today")}


def test_every_permission_is_used() -> None:
    used = {(room_of(path), module) for path in FILES for module in modules_used(path)}
    assert set(PERMITTED) <= used


def test_the_plugin_file_imports_nothing_of_ours() -> None:
    """Every twistd on the machine reads it."""
    assert {name.split(".")[0] for name in imported(ROOT / "twisted" / "plugins" / "relayd_plugin.py")} == {"twisted"}


def test_the_plugin_directory_is_no_package_of_its_own() -> None:
    """An __init__.py there would hide Twisted's own plugins, or the whole of Twisted."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "console").rglob("*.py")), ids=lambda path: path.name)
def test_the_console_imports_nothing_of_relayd(path: Path) -> None:
    assert "relayd" not in modules_used(path)


@pytest.mark.parametrize("name", [short(path) for path in FILES if path.name != "__init__.py"])
def test_every_file_has_its_test(name: str) -> None:
    *room, file = name.removesuffix(".py").split("/")
    twins = {f"test_{file}.py", "test_" + "_".join([*room, file]) + ".py", f"test_{(room or [file])[0]}.py"}
    twins |= {TESTED_BY[name]} if name in TESTED_BY else set()
    assert twins & TESTS


def test_exceptions_name_files_that_exist_and_need_them() -> None:
    assert set(TESTED_BY) <= set(map(short, FILES))
    assert not [name for name in TESTED_BY if f"test_{Path(name).name}" in TESTS]


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=short)
def test_an_init_file_only_names_what_is_in_the_room(path: Path) -> None:
    for node in tree(path).body:
        assert isinstance(node, ast.Expr | ast.Import | ast.ImportFrom | ast.Assign)
