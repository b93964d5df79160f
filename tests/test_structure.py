"""What holds the house together and no linter sees: circles, light rooms, sizes, one table of families."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("engine", "kernels", "presets", "tui")
LIGHT = ("config", "data/report", "run", "session")
"""Rooms of the engine that the screens import before, or right after, their first paint."""
HEAVY = ("torch", "transformers", "datasets", "peft", "trl", "bitsandbytes")


def modules() -> dict[str, Path]:
    """Dotted name, as under `evenfall`, -> file."""
    found = {}
    for file in (file for top in OURS for file in (ROOT / top).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(name: str, file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of ours that a module imports: at its top, inside functions, for types alone, or by a name in a text."""
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            head = package[: len(package) - node.level + 1]
            base = ".".join([*head, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from named(node.value, known)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from relative(node.args[0], package, known)


def named(text: str, known: dict[str, Path]) -> set[str]:
    """Modules that a text names: "evenfall.engine.x", "..engine.x", f"{package}.training.worker"."""
    written = text.removeprefix("evenfall").lstrip(".")
    if text.startswith("evenfall.") and text.endswith("."):  # f"evenfall.engine.x.{name}": any of them
        return {name for name in known if name.startswith(written)}
    return {written, f"engine.{written}"} & known.keys() if "." in written else set()


def relative(argument: ast.expr, package: list[str], known: dict[str, Path]) -> set[str]:
    """The module that `import_module` takes for ".x" or "..x.y" in a package."""
    text = argument.value if isinstance(argument, ast.Constant) else None
    dots = len(text) - len(text.lstrip(".")) if isinstance(text, str) else 0
    if not isinstance(text, str) or not 0 < dots <= len(package):
        return set()
    return {".".join([*package[: len(package) - dots + 1], text[dots:]])} & known.keys()


def chains(graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """The longest chain of imports below each module.

    Raises:
        AssertionError: the graph has a circle; the message is that circle.
    """
    found: dict[str, list[str]] = {}

    def walk(name: str, path: list[str]) -> list[str]:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in found:
            below = (walk(one, [*path, name]) for one in sorted(graph[name]))
            found[name] = [name, *max(below, key=len, default=[])]
        return found[name]

    for name in graph:
        walk(name, [])
    return found


def graph_of_imports() -> dict[str, set[str]]:
    known = modules()
    return {name: set(imports(name, file, known)) & known.keys() - {name} for name, file in known.items()}


def test_no_module_is_imported_by_what_it_imports():
    found = chains(graph_of_imports())
    assert len(found) > 250  # it did look


def test_imports_inside_functions_and_by_name_are_seen():
    graph = graph_of_imports()
    assert "engine.training.worker" in graph["engine.session.imports"]  # by name
    assert "engine.training.worker" in graph["engine.session.session"]  # inside a function
    known, package = modules(), ["engine", "training"]
    for text in ("evenfall.engine.training.worker", ".training.worker", "evenfall.engine.training."):
        assert "engine.training.worker" in named(text, known), text
    for text in (".worker", "..training.worker"):
        assert relative(ast.Constant(text), package, known) == {"engine.training.worker"}, text
    with pytest.raises(AssertionError, match="a -> b -> a"):
        chains({"a": {"b"}, "b": {"a"}})


def test_no_import_runs_upward_by_name_either():
    """A linter sees no import whose module is a text."""
    floor = {"tui": 2, "engine": 1, "kernels": 0, "presets": 0}
    upward = [
        f"{name} -> {one}"
        for name, below in graph_of_imports().items()
        for one in below
        if floor[one.split(".")[0]] > floor[name.split(".")[0]]
    ]
    assert not upward


def test_light_rooms_load_no_heavy_library():
    """A linter cannot hold this: it counts what a room imports inside its functions too."""
    names = ["evenfall.engine.errors"]
    for room in LIGHT:
        files = sorted((ROOT / "engine" / room).glob("*.py"))
        assert files, room
        names += [f"evenfall.engine.{room.replace('/', '.')}.{file.stem}" for file in files if file.stem != "__init__"]
    names.append("evenfall.engine.machine.jobs")
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = [one for one in sys.argv[1].split(',') if one in sys.modules]\n"
        "    assert not heavy, f'{name} loads {heavy}'"
    )
    command = [sys.executable, "-c", code, ",".join(HEAVY), *names]
    done = subprocess.run(command, check=False, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def classes(top: str) -> Iterator[tuple[Path, ast.ClassDef]]:
    for file in (ROOT / top).rglob("*.py"):
        yield from ((file, node) for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef))


@pytest.mark.parametrize("top", OURS)
def test_constructors_of_more_than_three_fields_take_keywords_alone(top):
    wrong = []
    for file, node in classes(top):
        made = [ast.unparse(one) for one in node.decorator_list if "dataclass" in ast.unparse(one)]
        fields = [
            one for one in node.body if isinstance(one, ast.AnnAssign) and "ClassVar" not in ast.unparse(one.annotation)
        ]
        if made and len(fields) > 3 and "kw_only=True" not in made[0]:
            wrong.append(f"{file.relative_to(ROOT)}: {node.name}")
    assert not wrong


def test_every_error_of_the_engine_is_a_user_error():
    """So that whoever shows errors needs no list of their classes."""
    bases = {node.name: [ast.unparse(base) for base in node.bases] for _, node in classes("engine")}

    def is_user_error(name: str) -> bool:
        return name == "UserError" or any(map(is_user_error, bases.get(name, ())))

    errors = [name for name in bases if name.endswith("Error")]
    assert len(errors) >= 9
    assert [name for name in errors if not is_user_error(name)] == []


def test_one_table_says_what_a_family_is():
    from evenfall.engine.model.families.table import FAMILIES

    wrong = []
    for file in (ROOT / "engine").rglob("*.py"):
        if "families" in file.parts or "convert" in file.parts:  # other tools name templates by families
            continue
        texts = (node.value for node in ast.walk(tree(file)) if isinstance(node, ast.Constant))
        wrong += [f"{file.relative_to(ROOT)}: {text}" for text in texts if text in FAMILIES]
    assert not wrong


def test_files_and_functions_are_short():
    """`kernels/` is left out for functions: a kernel is as long as it is. The loop is one flat function on purpose."""
    long = []
    for file in (file for top in (*OURS, "tests", "docs") for file in (ROOT / top).rglob("*.py")):
        where = file.relative_to(ROOT)
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > 500:
            long.append(f"{where}: {lines} lines")
        if where.parts[0] == "kernels":
            continue
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                most = 110 if (where.name, node.name) == ("train.py", "train") else 80
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > most:
                    long.append(f"{where}: {node.name} has {lines} lines")
    assert not long
