"""The house: imports go down, the instruments know nothing of MTD, and modules stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("mtd_lens/**/*.py"), *ROOT.glob("probes/**/*.py")])

# A module may import from floors below its own, and from its own floor only where listed later in
# no cycle. Family modules stand in the order of the paper's stages.
FLOORS = [
    ["probes.errors"],
    ["probes.checks", "probes.subject"],
    [
        "probes.statistics.intervals",
        "probes.statistics.significance",
        "probes.sites",
        "probes.controls",
        "probes.files",
        "probes.patching.figures",
        "probes.patching.labelled",
        "probes.patching.partial_runs",
    ],
    ["probes.patching.edits"],
    ["probes.patching.grid", "probes.capture", "probes.linear", "probes.circuits"],
    ["probes.interchange", "probes.alignment", "probes.patching.engines"],
    ["probes.patching.trust"],
    ["probes.patching.activations"],
    ["probes.patching.paths"],
    ["probes"],
    [
        "mtd_lens.errors",
        "mtd_lens.architectures.layout",
        "mtd_lens.shapes",
        "mtd_lens.vectors",
        "mtd_lens.architectures.writing",
    ],
    [
        "mtd_lens.architectures.models",
        "mtd_lens.contracts",
        "mtd_lens.hooked.modules",
        "mtd_lens.algorithms",
    ],
    ["mtd_lens.architectures.vectors", "mtd_lens.measures.pairs", "mtd_lens.hooked.info"],
    ["mtd_lens.hooked.build"],
    ["mtd_lens.hooked.random"],
    [
        "mtd_lens.hooked",
        "mtd_lens.measures",
        "mtd_lens.results.forms",
        "mtd_lens.results.inspection",
        "mtd_lens.architectures",
        "mtd_lens.training.processes",
    ],
    ["mtd_lens.training.checkpoints", "mtd_lens.training.config"],
    [
        "mtd_lens.training.run_folder",
        "mtd_lens.token_tasks",
        "mtd_lens.results.alignment",
        "mtd_lens.results.weights",
    ],
    ["mtd_lens.families"],
    ["mtd_lens.families.mtd.task"],
    ["mtd_lens.families.mtd.estimators", "mtd_lens.families.mtd.plan"],
    ["mtd_lens.families.mtd.iterative"],
    [
        "mtd_lens.families.mtd.presets",
        "mtd_lens.families.mtd.posterior",
        "mtd_lens.families.mtd.causal_model",
        "mtd_lens.families.mtd.absolute",
        "mtd_lens.families.mtd.relative",
    ],
    ["mtd_lens.families.mtd.constructions", "mtd_lens.families.mtd.claims"],
    ["mtd_lens.families.mtd.references", "mtd_lens.families.mtd.weight_space"],
    ["mtd_lens.families.mtd.analysis"],
    ["mtd_lens.families.mtd.family"],
    ["mtd_lens.families.mtd"],
    ["mtd_lens.families.ngram.task"],
    ["mtd_lens.families.ngram.estimators", "mtd_lens.families.ngram.presets"],
    ["mtd_lens.families.ngram.causal_model", "mtd_lens.families.ngram.plan"],
    ["mtd_lens.families.ngram.absolute", "mtd_lens.families.ngram.relative"],
    ["mtd_lens.families.ngram.constructions", "mtd_lens.families.ngram.claims"],
    ["mtd_lens.families.ngram.references", "mtd_lens.families.ngram.analysis"],
    ["mtd_lens.families.ngram.family"],
    ["mtd_lens.families.ngram"],
    ["mtd_lens.families.autoregressive.task"],
    [
        "mtd_lens.families.autoregressive.estimators",
        "mtd_lens.families.autoregressive.presets",
    ],
    ["mtd_lens.families.autoregressive.causal_model"],
    ["mtd_lens.families.autoregressive.claims"],
    [
        "mtd_lens.families.autoregressive.references",
        "mtd_lens.families.autoregressive.analysis",
    ],
    ["mtd_lens.families.autoregressive.constructions"],
    ["mtd_lens.families.autoregressive.family"],
    ["mtd_lens.families.autoregressive"],
    ["mtd_lens.registry", "mtd_lens.results.scorecard"],
    ["mtd_lens.results.comparison", "mtd_lens.results.localization_tables"],
    ["mtd_lens.questions.score"],
    ["mtd_lens.questions.inspect"],
    ["mtd_lens.views.plots.style"],
    [
        "mtd_lens.views.plots.cells",
        "mtd_lens.views.plots.outputs",
        "mtd_lens.views.plots.inspected",
    ],
    [
        "mtd_lens.views.plots.attention",
        "mtd_lens.views.plots.comparisons",
        "mtd_lens.views.plots.latents",
        "mtd_lens.views.plots.localization",
        "mtd_lens.views.plots.predictions",
        "mtd_lens.views.plots.scatter",
        "mtd_lens.views.plots.scorecards",
        "mtd_lens.views.plots.simplex",
        "mtd_lens.views.plots.training",
    ],
    ["mtd_lens.views.plots", "mtd_lens.questions.align"],
    ["mtd_lens.questions.compare", "mtd_lens.training.loop"],
    ["mtd_lens.results.localization", "mtd_lens.views.dashboard"],
    ["mtd_lens.questions.localize"],
    ["mtd_lens.cli"],
    ["mtd_lens.__main__", "mtd_lens"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports_of(path):
    """Modules of ours that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                assert alias.name != "*", f"{path}: star import"
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return {name for name in found if name.split(".")[0] in ("mtd_lens", "probes")}


def external_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down(name):
    assert name in FLOOR, f"give {name} a floor"
    for imported in imports_of(MODULES[name]):
        assert FLOOR[imported] < FLOOR[name], f"{name} imports {imported}, which is not below it"


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] == "probes"])
def test_the_instruments_never_import_what_is_tested(name):
    assert all(imported.split(".")[0] == "probes" for imported in imports_of(MODULES[name]))
    assert "mtd_lens" not in set(external_imports(MODULES[name]))


def test_one_package_imports_transformer_lens():
    users = {
        name for name, path in MODULES.items() if "transformer_lens" in set(external_imports(path))
    }
    assert users == {f"mtd_lens.hooked.{name}" for name in ("build", "modules", "random")}


def test_nothing_outside_the_families_names_one():
    """Only the package's list of public names may; it loads them when they are asked for."""
    for name, path in MODULES.items():
        if not name.startswith("mtd_lens.families"):
            assert not any("families." in imported for imported in imports_of(path)), name


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_small_and_say_what_they_are(name):
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), name


@pytest.mark.parametrize("folder", ["tests", "tutorials"])
def test_so_do_tests_and_scripts(folder):
    for path in ROOT.joinpath(folder).rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_the_check_would_notice_an_upward_import(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from mtd_lens.questions.score import score\n    return score\n")
    assert imports_of(path) == {"mtd_lens.questions.score"}
    assert FLOOR["mtd_lens.questions.score"] > FLOOR["mtd_lens.families.mtd.task"]
