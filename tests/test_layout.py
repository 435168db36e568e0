"""The layout of the tree: import directions, owners of libraries, and what is forbidden."""

from __future__ import annotations

import ast
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "core": {"core"},
    "models": {"core", "models"},
    "data": {"core", "data"},
    "tools": {"core", "models", "data", "tools"},
    "launch": {"core", "models", "data", "tools", "launch"},
}
# The rooms of each folder, from the ground up; a room imports from those on lower lines only. "." stands for
# the modules that lie in the folder itself.
ROOMS = {
    "core": [
        {"."},
        {"first_values", "reading"},
        {"config"},
        {"distributed"},
        {"run"},
        {"averages", "diffusion", "memory", "metrics", "optim"},
        {"engine", "kernels"},
        {"faults"},
        {"checkpoint", "preflight", "queue"},
        {"train"},
    ],
    "models": [
        {"."},
        {"attention"},
        {"kernels", "layers"},
        {"denoisers", "autoencoder", "classifiers", "extractors", "text"},
    ],
    "data": [{"."}, {"media"}, {"order"}, {"dataset"}, {"raw"}, {"latent"}, {"loading", "reindexing"}],
    "tools": [
        {"pages", "runs"},
        {"encode", "evaluate", "inspect", "sample", "shard", "train_autoencoder"},
        {"preview"},
        {".", "train"},
        {"bench", "cards", "plan"},
        {"convert"},
        {"export", "sweep"},
        {"report"},
    ],
    "launch": [{"."}, {"cluster", "demo"}, {"doctor", "python", "report", "sweep"}],
}
# Files of the same name that are others: members of packs, an autoencoder's own scores, a sampling record, a
# text encoder in the layout of transformers.
ELSEWHERE = {
    "flip.npy": "data/latent/pack_reading.py",
    "text.npy": "data/latent/pack_reading.py",
    "features.npy": "data/latent/packs.py",
    "still.npy": "data/latent/packs.py",
    "scores.json": "models/autoencoder/store.py",
    "made_from.json": "tools/runs/samples.py",
    "model.safetensors": "launch/demo/own/words.py",
}
# Fields of a section within the section that a class or function takes.
OWN_SECTIONS = {("data/raw/survey.py", "clips.cuts"), ("data/raw/survey.py", "duplicates.near")}
SAME_NAME = {"__init__", "config", "job", "kinds", "setup"}  # may be files of several rooms
MOST_FILES = 16  # in a folder
OWNERS = {
    "omegaconf": r"core/config/yaml_files\.py",
    "yaml": r"core/config/yaml_files\.py",
    "deepspeed": r"core/engine/zero/\w+\.py",
    "triton": r"core/kernels/(draw_kernels|mixing_kernel)\.py|models/kernels/adaln\.py",
    "torchao": r"models/layers/eight_bits/mxfp8\.py",
    "wandb": r"core/metrics/trackers/wandb_view\.py",
    "tensorboard": r"core/metrics/trackers/event_files\.py",
    "webdataset": r"tools/bench/peers\.py",
    "litdata": r"tools/bench/peers\.py",
    "streaming": r"tools/bench/peers\.py",
    "submitit": r"launch/cluster/\w+\.py",
    "flash_attn": r"models/attention/backends\.py",
    "flash_attn_interface": r"models/attention/backends\.py",
    "av": r"data/media/(scaling|scenes|video\w*|remux|film/\w+|stills/deep)\.py|tools/bench/clips\.py"
    r"|launch/doctor/machine\.py",
    # Pictures are decoded in the first only.
    "PIL": r"data/media/(stills/\w+|labels/\w+|images|drawing)\.py|data/raw/duplicates\.py",
    "pillow_heif": r"data/media/stills/heif\.py",
    "imagehash": r"data/raw/duplicates\.py",
    "scenedetect": r"data/media/scenes\.py",
    "pyarrow": r"data/raw/tables/parquet_rows\.py",
    "sklearn": r"tools/digits\.py",
    "diffusers": r"models/autoencoder/public\.py|tools/bench/(public_dits|schedulers|sampling)\.py",
    "transformers": r"models/pretrained\.py",
}
MAY_CATCH_ALL = {
    "core/metrics/trackers/showing.py",  # what shows a run costs the view, with the reason told
    "core/metrics/trackers/wandb_view.py",  # a metrics service that fails never ends a training run
    "models/attention/measuring.py",  # a kernel that fails in whatever way is not taken, and why is told
    "core/checkpoint/save_thread.py",  # what its thread meets is raised by the main one
    "data/loading/ahead.py",  # likewise
    "core/progress.py",  # a line that cannot be made never ends the work it tells of
    "models/foreign.py",  # what a library makes of a foreign folder ends a job in one line
    "data/dataset/faults.py",  # what a sample's content raises sets it aside, and the job's exit status tells
}
# What parses a file, by the modules that may: they check what comes out, and refuse it in one line.
READERS = {
    r"json\.loads?": {
        "core/reading/json_files.py",
        "core/records.py",  # rows of records, line by line
        "core/metrics/trackers/wandb_view.py",  # what the run's own process sends it
        "data/raw/tables/json_rows.py",  # foreign tables, whose bad rows are set aside
        "data/raw/annotations/captions.py",  # likewise of files beside pictures
    },
    r"np\.(load|fromfile|memmap|genfromtxt|loadtxt)|np\.lib\.format\.(read_\w+|open_\w+)": {
        "core/reading/array_files.py"
    },
    r"(zipfile\.)?ZipFile": {
        "core/reading/array_files.py",
        "tools/sample/publishing.py",  # writes arrays part by part, and reads none
    },
    r"torch\.load": {"core/checkpoint/torch_file.py"},
    r"torch\.jit\.load": {"models/extractors/i3d.py"},  # a program, which docs/security.md says
    r"yaml\.\w*(load|parse|compose|scan)\w*|OmegaConf\.load": {"core/config/yaml_files.py"},
    r"safe_open|load_file|safetensors\.torch\.load\w*": {"core/checkpoint/tensor_file.py"},
    r"tarfile\.(open|TarFile)|TarFile\.open": {
        "data/dataset/tars.py",
        "data/raw/writing.py",  # writes raw shards, and reads none
    },
    r"csv\.(reader|DictReader)": {"data/raw/tables/delimited.py"},
}
UNPICKLES = "core/checkpoint/torch_file.py"  # only for its exception, and torch's restricted unpickler
LISTS_FOLDERS = {"glob", "iglob", "rglob", "iterdir", "listdir", "scandir", "walk"}
MAY_LIST = {
    "core/files.py",  # says how: its callers see no temporary files
    "core/distributed/rendezvous.py",  # makes an NFS client look for new names; what it lists is not used
    "data/raw/walking.py",  # a foreign tree of media, whose hidden names are passed over and counted
}
# Whose prints may fail: programs of their own, and what is said before `core` is known to be ours.
MAY_PRINT = {"core/terminal.py", "launch/cli.py", "tools/bench/startup.py", "tools/bench/bare_start.py"}
SOURCES = sorted(path for folder in MAY_IMPORT for path in (ROOT / folder).rglob("*.py"))


def tree_of(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"), str(source))


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the top-level names of all imports, also of those inside functions; relative ones as '.'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." if node.level else (node.module or "").partition(".")[0]


def name_of(source: Path) -> str:
    return source.relative_to(ROOT).as_posix()


def module_of(source: Path) -> str:
    return name_of(source).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_modules(source: Path, known: set[str]) -> Iterator[str]:
    """Yield this project's modules that a file imports, wherever in it: in functions and for types too."""
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in known or node.module in known:
                    yield whole if whole in known else node.module


def import_graph() -> dict[str, set[str]]:
    known = {module_of(source) for source in SOURCES}
    return {module_of(s): set(imported_modules(s, known)) - {module_of(s)} for s in SOURCES}


def room_of(module: str) -> tuple[str, str]:
    folder, *inner = module.split(".")
    is_room = len(inner) > 1 or (bool(inner) and (ROOT / folder / inner[0]).is_dir())
    return folder, inner[0] if is_room else "."


def test_all_folders_have_sources() -> None:
    assert {name_of(source).partition("/")[0] for source in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_imports_follow_the_house_and_libraries_have_one_owner(source: Path) -> None:
    name = name_of(source)
    for imported in imports(tree_of(source)):
        assert imported != ".", f"{name} imports relatively"
        assert imported not in set(MAY_IMPORT) - MAY_IMPORT[name.partition("/")[0]], (
            f"{name} imports {imported}"
        )
        if imported in OWNERS:
            assert re.fullmatch(OWNERS[imported], name), (
                f"{imported} belongs to {OWNERS[imported]}, not to {name}"
            )


def test_every_room_has_its_place() -> None:
    for folder, floors in ROOMS.items():
        rooms = [room for floor in floors for room in floor]
        assert len(rooms) == len(set(rooms))
        here = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        assert here == set(rooms) - {"."}


def test_rooms_import_downwards_only() -> None:
    upwards = []
    for module, others in import_graph().items():
        folder, room = room_of(module)
        floor = next(n for n, rooms in enumerate(ROOMS[folder]) if room in rooms)
        below = {other for rooms in ROOMS[folder][:floor] for other in rooms} | {room}
        upwards += [
            f"{module} imports {other}"
            for other in others
            if room_of(other)[0] == folder and room_of(other)[1] not in below
        ]
    assert upwards == []


def picture() -> str:
    """Draw ROOMS side by side, from the ground up; "itself" stands for the modules of the folder."""
    columns = []
    for folder, floors in ROOMS.items():
        column = [f"{folder}/"]
        for rooms in floors:
            names = "  ".join(sorted("itself" if room == "." else room for room in rooms))
            column += textwrap.wrap(names, 24, initial_indent="  ", subsequent_indent="    ")
        columns.append([f"{line:<{max(map(len, column)) + 2}}" for line in column])
    rows = itertools.zip_longest(*columns)
    widths = [len(column[0]) for column in columns]
    return "\n".join(
        "".join(cell or " " * width for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def test_the_picture_of_the_rooms_is_true() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert picture() in text, f"docs/architecture.md should have:\n{picture()}"


def test_no_two_files_need_each_other() -> None:
    """Remove files that import none of the rest, then those that none of the rest imports: circles stay."""
    graph = import_graph()
    while ready := {module for module, others in graph.items() if not others & set(graph)}:
        graph = {module: others for module, others in graph.items() if module not in ready}
    while unused := set(graph) - set().union(*graph.values()):
        graph = {module: others for module, others in graph.items() if module not in unused}
    assert {module: sorted(others & set(graph)) for module, others in graph.items()} == {}


def test_names_of_files_are_known_once() -> None:
    """File names of runs, exports, samples and datasets stand in two modules, which all others ask."""
    known = {ROOT / "core/run/folder.py", ROOT / "data/dataset/schema.py"}
    names = {
        node.value
        for source in known
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.Constant)
        and re.fullmatch(r"\w+\.(json|jsonl|npy|yaml|lock|safetensors)", str(node.value))
    }
    assert {"metrics.jsonl", "dataset.json", "config.yaml"} <= names
    again = [
        f"{name_of(source)}:{node.lineno} {node.value}"
        for source in set(SOURCES) - known
        if "bench" not in source.parts
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.Constant)
        and str(node.value).rpartition("/")[2] in names
        and name_of(source) != ELSEWHERE.get(str(node.value))
    ]
    assert sorted(again) == []


def test_messages_name_fields_by_the_section_that_a_function_takes() -> None:
    """A path with a dot is the caller's to add (`core.errors.below`): it knows where the section stands."""
    named = {
        (name_of(source), str(call.args[0].value))
        for source in SOURCES
        if name_of(source).startswith(("core/", "data/", "models/"))
        for call in ast.walk(tree_of(source))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "UserError" and len(call.args) > 1
        if isinstance(call.args[0], ast.Constant) and "." in str(call.args[0].value)
    }
    assert named == OWN_SECTIONS


def takers_of_root_configs(tree: ast.Module) -> set[str]:
    """Return functions (except what a job offers) and classes that are given the whole config of a job."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name not in {"plan", "run", "may_grow"}:
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            annotations = [argument.annotation for argument in arguments]
        elif isinstance(node, ast.ClassDef):
            annotations = [field.annotation for field in node.body if isinstance(field, ast.AnnAssign)]
        else:
            continue
        named = {ast.unparse(annotation) for annotation in annotations if annotation}
        if any(re.fullmatch(r"(\w+\.)*Config( \| None)?", name) for name in named):
            found.add(node.name)
    return found


def test_only_what_a_job_offers_takes_its_whole_config() -> None:
    """`plan`, `run` and `may_grow` do (`launch.jobs.Job`). All else takes the section that it needs: it says
    what it depends on, and serves other jobs too.

    Measurements of `bench` all take its config, which is what they share.
    """
    sources = [source for source in SOURCES if "bench" not in source.parts]
    found = {name_of(source): takers_of_root_configs(tree_of(source)) for source in sources}
    assert {name: functions for name, functions in found.items() if functions} == {}


def test_a_package_says_what_belongs_into_it_and_no_more() -> None:
    for source in SOURCES:
        if source.name == "__init__.py":
            body = tree_of(source).body
            room = room_of(module_of(source))[1]
            expected = 0 if room == "." and not body else 1
            assert len(body) == expected, name_of(source)
            assert not body or (isinstance(body[0], ast.Expr) and ast.get_docstring(tree_of(source)))


def test_folders_are_small_and_names_are_used_once() -> None:
    for folder in MAY_IMPORT:
        files = [s for s in SOURCES if name_of(s).startswith(f"{folder}/") and "bench" not in s.parts]
        by_place: dict[Path, list[str]] = {}
        for source in files:
            by_place.setdefault(source.parent, []).append(source.stem)
        too_large = {
            name_of(place): len(names) for place, names in by_place.items() if len(names) > MOST_FILES
        }
        assert too_large == {}
        names = [source.stem for source in files if source.stem not in SAME_NAME]
        assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_one_module_writes_to_standard_streams(source: Path) -> None:
    called = [ast.unparse(node.func) for node in ast.walk(tree_of(source)) if isinstance(node, ast.Call)]
    direct = [name for name in called if re.fullmatch(r"print|sys\.std(out|err)\.(write|writelines)", name)]
    if name_of(source) == "launch/cli.py":
        assert direct == ["print"]
    assert not direct or name_of(source) in MAY_PRINT


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_nothing_is_swallowed_unpickled_or_given_to_a_shell(source: Path) -> None:
    for node in ast.walk(tree_of(source)):
        if isinstance(node, ast.ExceptHandler) and name_of(source) not in MAY_CATCH_ALL:
            caught = ast.unparse(node.type) if node.type else "BaseException"
            broad = re.search(r"\b(Exception|BaseException)\b", caught)
            assert not broad or ast.unparse(node.body[-1]) == "raise", f"line {node.lineno}"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "Image.open" or name_of(source) == "data/media/stills/still.py", (
                f"line {node.lineno}"
            )
            assert called not in {"os.system", "eval", "exec"}, f"line {node.lineno}"
            if called == "torch.load":  # published weights, by torch's restricted unpickler
                assert name_of(source) == UNPICKLES, f"line {node.lineno}"
                assert "weights_only=True" in ast.unparse(node), f"line {node.lineno}"
            for keyword in node.keywords:
                given = f"{keyword.arg}={ast.unparse(keyword.value)}"
                assert given not in {"shell=True", "allow_pickle=True"}, f"line {node.lineno}"
    allowed = {"pickle"} if name_of(source) == UNPICKLES else set()
    assert not {"pickle", "dill", "cloudpickle", "shelve"} & set(imports(tree_of(source))) - allowed


def listings(tree: ast.Module) -> list[str]:
    """Name everything with which a file lists folders, called or handed on; `ast.walk` is of another kind."""
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in {"os", "glob", "pathlib"}
        for alias in node.names
    }
    used = [
        ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and n.attr in LISTS_FOLDERS
    ]
    return sorted([*(imported & LISTS_FOLDERS), *(name for name in used if name != "ast.walk")])


def test_folders_are_listed_without_temporary_files() -> None:
    """A plain listing finds what others are writing, or killed writers left, under names like ours."""
    found = {name_of(source): listings(tree_of(source)) for source in SOURCES}
    assert {name: used for name, used in found.items() if used and name not in MAY_LIST} == {}
    assert {name for name, used in found.items() if used} == MAY_LIST  # no reason outlives its module


def parsers(tree: ast.Module) -> dict[str, list[str]]:
    """Name what a file calls of READERS, by their patterns."""
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    found = {pattern: [name for name in called if re.fullmatch(pattern, name)] for pattern in READERS}
    return {pattern: names for pattern, names in found.items() if names}


def test_files_are_parsed_by_their_readers() -> None:
    """A parser takes whatever stands in a file, and its own exceptions name neither file nor place."""
    found = {name_of(s): parsers(tree_of(s)) for s in SOURCES if "bench" not in s.parts}
    bare = {
        name: calls
        for name, used in found.items()
        for pattern, calls in used.items()
        if name not in READERS[pattern]
    }
    assert bare == {}
    readers = {name for names in READERS.values() for name in names}
    assert {name for name in readers if not found[name]} == set()  # no reason outlives its module
