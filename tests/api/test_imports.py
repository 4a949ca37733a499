"""The rooms of `difal`: what may import what, read from the source."""

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import difal

ROOT = Path(difal.__file__).parent
LEAVES = {"config", "earlier_names", "errors", "files", "metrics", "parallel", "threads", "timing"}
# Each room may import the leaves and the rooms above it.
ORDER = ["data", "encoders", "heads", "features", "acquisition", "run", "annotate", "report", "sweep", "cli"]
# Rooms beside the order: what they may import besides the leaves.
BESIDE = {"prepare": {"data"}, "presets": set(), "adapters": set()}
USERS = {"prepare": {"cli"}, "presets": {"sweep", "annotate", "cli"}, "adapters": set()}


def allowed():
    """By room, the rooms that it may import."""
    rooms = dict.fromkeys(LEAVES, LEAVES)
    rooms |= {room: LEAVES | set(ORDER[:at]) for at, room in enumerate(ORDER)}
    rooms |= {room: LEAVES | more for room, more in BESIDE.items()}
    for room, users in USERS.items():
        for user in users:
            rooms[user] = rooms[user] | {room}
    return rooms


def modules():
    """Every module's name and syntax tree, but the package itself and `python -m difal`."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = ast.parse(path.read_text())
    del found["difal"], found["difal.__main__"]
    return found


MODULES = modules()


def imports(tree):
    """(imported module, whether inside a function) of every import statement."""

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, "imports of difal are written out"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    yield (whole if whole in MODULES else child.module), inside
            elif not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
                yield from visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return list(visit(tree, False))


def room(module):
    return module.split(".")[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_what_is_above_it(module):
    rooms = allowed()
    assert room(module) in rooms, f"{module}: put the new room into the order above"
    for imported, _ in imports(MODULES[module]):
        if imported.startswith("difal."):
            assert room(imported) in rooms[room(module)] | {room(module)}, f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_only_third_party_libraries_are_imported_inside_functions(module):
    """Those may be absent, or slow to import; an import of our own inside a function hides a circle."""
    for imported, inside in imports(MODULES[module]):
        ours = imported.split(".")[0] in {"difal", "difal_kernels", *sys.stdlib_module_names}
        assert not (inside and ours), f"{module} imports {imported} inside a function"


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: {one for one, _ in imports(tree) if one in MODULES} for name, tree in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
