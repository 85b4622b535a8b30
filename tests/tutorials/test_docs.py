"""The documentation: complete, resolvable, and with examples that run.

That arguments and attributes are the described ones is pydoclint's to say; it is asked here, for
public names alone. What it cannot know is ours: shapes, units, sources, and the errors of helpers.
"""

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
import typing
from pathlib import Path
from types import SimpleNamespace

import docstring_parser
import pytest

import mtd_lens
import probes
from mtd_lens import measures
from probes.errors import ProbesError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "tutorials"
PACKAGES = (mtd_lens, measures, probes)

SHARED = re.compile(r"^ *- ``([*\w]+)``: (.+)$", re.MULTILINE)
"""Parameters that methods share are described once, in a list in the docstring of their class."""

TENSORS = re.compile(
    r"\b(Tensor|Float|Int|Bool|Tokens|Weights|WeightsPerQuery|Transition|Likelihoods|"
    r"Responsibilities|Predictions|PredictionsPerQuery|PerSequence|Vectors|Matrices)\b"
)
SHAPE = re.compile(r"\[[^\]]*\]|\bscalar\b")

NAMES_A_RESULT = re.compile(r"((The|A|An|What|Whether|Where|Plain)\b|``\[)")
"""How the summary of a function may begin that needs no ``Returns`` beside it."""

NEVER = {
    ("probes.last_outputs", "SiteError"): "it reads no site that could be missing or silent",
    ("mtd_lens.best_beta", "ArgumentError"): "the targets and bounds that it passes on are sound",
    ("mtd_lens.best_sharpness", "ArgumentError"): "the targets that it passes on are sound",
    ("mtd_lens.best_step_size", "ArgumentError"): "the targets that it passes on are sound",
    ("mtd_lens.best_step_size", "TokensError"): "the task's own vectors are no zeros",
}
"""Errors of a helper that a function cannot meet, each with the reason."""

PUBLIC = [
    (package, name)
    for package in PACKAGES
    for name in package.__all__
    if not inspect.ismodule(getattr(package, name))
]
NAMES = [f"{package.__name__}.{name}" for package, name in PUBLIC]


def public_callables():
    """Every public function, and every public method that our classes define, once."""
    seen = {}
    for package, name in PUBLIC:
        value = getattr(package, name)
        if inspect.isfunction(value):
            seen[id(value)] = (f"{package.__name__}.{name}", value, None)
        elif inspect.isclass(value):
            for key, member in vars(value).items():
                member = getattr(member, "__func__", member)  # a class method's function
                if not key.startswith("_") and inspect.isfunction(member):
                    seen[id(member)] = (f"{package.__name__}.{name}.{key}", member, value)
    return list(seen.values())


def public_classes():
    classes = {id(v): v for p, n in PUBLIC if inspect.isclass(v := getattr(p, n))}
    return list(classes.values())


def home(value):
    return str(Path(inspect.getfile(inspect.unwrap(value))).relative_to(ROOT))


def parsed(value):
    style = docstring_parser.DocstringStyle.GOOGLE
    return docstring_parser.parse(inspect.getdoc(value) or "", style=style)


def shared_by(owner):
    return dict(SHARED.findall(inspect.getdoc(owner) or "")) if owner else {}


def described(value):
    """What a docstring says of arguments and attributes, by name."""
    found = parsed(value)
    return {e.arg_name: e.description or "" for e in [*found.params, *found.attrs]}


def linted(*paths):
    """What pydoclint finds: functions, with arguments that only signature or docstring has."""
    command = [sys.executable, "-m", "pydoclint.main", "--quiet", "--config", "pyproject.toml"]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Error:" not in done.stderr, done.stderr
    for report in re.split(r"\n(?=\S)", done.stderr.strip()):
        file = report.partition("\n")[0]
        for name, text in re.findall(r"DOC103: \w+ `([\w.]+)`:.+?\)\. (.+)", report):
            yield file, name, re.findall(r"(\*{0,2}\w+):(?! \[)", text)


def test_arguments_are_those_that_are_described():
    public = {(home(cls), f"{cls.__name__}.__init__"): {} for cls in public_classes()}
    public |= {(home(f), f.__qualname__): shared_by(owner) for _, f, owner in public_callables()}
    wrong = [
        (file, name, argument)
        for file, name, arguments in linted("mtd_lens", "probes")
        for argument in arguments
        if (file, name) in public and argument not in public[file, name]
    ]
    assert wrong == []


def annotation_text(annotation):
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def uncaught(node):
    """Nodes of a syntax tree, but for what stands in a ``try`` that catches our errors."""
    yield node
    for child in ast.iter_child_nodes(node):
        caught = isinstance(child, ast.Try) and any(
            ast.unparse(handler.type or ast.Name("any")) in ("any", "Exception", "ProbesError")
            for handler in child.handlers
        )
        for part in child.handlers + child.orelse + child.finalbody if caught else [child]:
            yield from uncaught(part)


def body_of(function):
    return uncaught(ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))))


def raised_by(function):
    """Our errors that a function, or a helper of its module, raises or hands to a check."""
    module = importlib.import_module(inspect.unwrap(function).__module__)
    nodes = list(body_of(function))
    for node in body_of(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = getattr(module, node.func.id, None)
            if inspect.isfunction(helper) and helper.__module__ == module.__name__:
                nodes += body_of(helper)
    found = set()
    for node in nodes:
        mentioned = []
        if isinstance(node, ast.Raise) and node.exc is not None:
            mentioned = [getattr(node.exc, "func", node.exc)]
        elif isinstance(node, ast.Call):
            mentioned = node.args
        for name in mentioned:
            error = getattr(module, name.id, None) if isinstance(name, ast.Name) else None
            if inspect.isclass(error) and issubclass(error, ProbesError):
                found.add(error)
    return found


def without_shape(annotation, text):
    """A tensor is annotated and no shape is given; functions and spaces have none."""
    said = annotation_text(annotation).replace("mtd_lens.spaces.", "Space")
    return bool(TENSORS.search(said)) and "Callable[" not in said and not SHAPE.search(text)


def missing_in(name, function, owner=None):
    """What a docstring should say of results, shapes and errors, and does not."""
    found = parsed(function)
    says = shared_by(owner) | described(function)
    signature = inspect.signature(inspect.unwrap(function))
    for key, parameter in signature.parameters.items():
        if without_shape(parameter.annotation, says.get(key, "[]")):
            yield f"{name}: parameter {key} has no shape"
    documented = {entry.type_name for entry in found.raises}
    for error in raised_by(function):
        known = documented & {base.__name__ for base in error.__mro__}
        if not known and (name, error.__name__) not in NEVER:
            yield f"{name}: raises {error.__name__}, which is not described"
    annotation = signature.return_annotation
    if annotation in (None, "None", inspect.Signature.empty, typing.Never):
        return
    summary = (found.short_description or "") + (found.long_description or "")
    parts = (found.returns.type_name, found.returns.description) if found.returns else ()
    returned = " ".join(filter(None, parts))  # up to a colon it is taken for the type
    if not returned and not NAMES_A_RESULT.match(summary):
        yield f"{name}: what it returns is not described"
    elif without_shape(annotation, returned or summary):
        yield f"{name}: what it returns has no shape"


def test_functions_say_what_they_return_and_raise_and_of_what_shape():
    missing = [text for found in public_callables() for text in missing_in(*found)]
    assert missing == []


def test_attributes_and_properties_are_described_with_their_shapes():
    missing = []
    for cls in public_classes():
        says = described(cls)
        hints = {
            key: (hint, "")
            for key, hint in vars(cls).get("__annotations__", {}).items()
            if typing.get_origin(hint) is not typing.ClassVar
        }
        for key, member in vars(cls).items():
            if isinstance(member, property):
                getter = member.fget
                hints[key] = (inspect.signature(getter).return_annotation, getter.__doc__ or "")
        for key, (hint, text) in hints.items():
            text = text or says.get(key, "")
            if not key.startswith("_") and (not text or without_shape(hint, text)):
                missing.append(f"{cls.__name__}.{key} has no description, or no shape")
    assert missing == []


QUANTITIES = {
    "probes.kl_divergence": ["nats"],
    "probes.key_softmax_divergence": ["nats"],
    "probes.random_simplex_map": ["Hewitt & Liang"],
    "probes.run_interchange": ["Geiger et al. 2021"],
    "probes.fit_alignment": ["Geiger et al. 2024"],
    "mtd_lens.measures.relative_scores": ["Shaw et al. 2018"],
    "mtd_lens.score": ["Geiger et al. (2021)", "Hewitt & Liang (2019)"],
    "mtd_lens.localize": ["Geiger et al."],
    "mtd_lens.compare": ["nats"],
    "mtd_lens.lag_likelihoods": ["Raftery 1985"],
    "mtd_lens.log_likelihood": ["nats", "Raftery 1985"],
    "mtd_lens.predict": ["Raftery 1985"],
    "mtd_lens.implied_weights": ["nats", "Raftery 1985"],
    "mtd_lens.responsibilities": ["Proposition 3"],
    "mtd_lens.mirror_descent": ["Proposition 3", "Theorem 1"],
    "mtd_lens.construct": ["Proposition 3"],
    "mtd_lens.posterior_mean": ["Stroud 1971"],
    "mtd_lens.maximum_likelihood": ["nats"],
    "mtd_lens.families.mtd.weight_space.weight_findings": ["nats"],
}
"""Units and sources that the docstring of what has one must give."""


def test_quantities_have_their_units_and_sources():
    missing = []
    for name, words in QUANTITIES.items():
        package, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(package), attribute)
        text = " ".join(inspect.getdoc(value).split())
        missing += [f"{name}: {word}" for word in words if word not in text]
    assert missing == []


BAD = '''
from jaxtyping import Float
from torch import Tensor

from probes.errors import ProbesError


def bad(first: Float[Tensor, "a"], second: int, *rest: int) -> Tensor:
    """Make something.

    Args:
        first: A thing.
        third: Another.
    """
    raise ProbesError("no")
'''


def test_a_docstring_that_leaves_something_out_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "leaves_out.py"
    path.write_text(BAD)
    assert list(linted(str(path))) == [(str(path), "bad", ["*rest", "second", "third"])]
    monkeypatch.syspath_prepend(tmp_path)
    assert list(missing_in("bad", importlib.import_module("leaves_out").bad)) == [
        "bad: parameter first has no shape",
        "bad: raises ProbesError, which is not described",
        "bad: what it returns is not described",
    ]


def test_examples_run():
    """Every module of the packages that has any."""
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    for path in (path for name in ("mtd_lens", "probes") for path in (ROOT / name).rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = importlib.import_module(name.removesuffix(".__init__"))
            for test in doctest.DocTestFinder(exclude_empty=True).find(module):
                runner.run(test, out=report.append)
    assert runner.tries > 20
    assert runner.failures == 0, "".join(report)


def test_every_measure_has_an_example():
    """Which ``test_examples_run`` runs."""
    kinds = [
        value for name in measures.__all__ if inspect.isclass(value := getattr(measures, name))
    ]
    assert len(kinds) > 10
    assert [kind.__name__ for kind in kinds if ">>> " not in (inspect.getdoc(kind) or "")] == []


PAGES = sorted(DOCS.glob("reference/*.md"))
DIRECTIVES = [
    (page.name, target)
    for page in PAGES
    for target in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
]


def resolved(target):
    module, _, attribute = target.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def test_directives_of_the_reference_name_what_is_there():
    for page, target in DIRECTIVES:
        value = resolved(target)
        home = getattr(value, "__module__", None)
        assert home in (None, target.rpartition(".")[0]), f"{page}: {target} is from {home}"


def test_the_reference_has_every_public_name_once():
    counts = dict.fromkeys(NAMES, 0)
    for _, target in DIRECTIVES:
        name, found = target.rpartition(".")[2], resolved(target)
        homes = [f"{p.__name__}.{n}" for p, n in PUBLIC if n == name and getattr(p, n) is found]
        assert homes, f"{target} is not public"
        for home in homes:
            counts[home] += 1
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_headings_and_anchors_of_the_reference_are_the_public_names():
    """An anchor, the directive, and its options: the heading, and the entry in the contents."""
    pattern = (
        r"^\[\]\(\)\{#(\S+)\}\n(?:\[\].+\n)?\n::: (\S+)\n    options:\n"
        r"      heading: (\S+)\n      toc_label: (\S+)$"
    )
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(pattern, text, re.MULTILINE)
        assert len(found) == len(re.findall("^::: ", text, re.MULTILINE)), page.name
        for anchor, target, heading, label in found:
            assert anchor == heading == f"{heading.rpartition('.')[0]}.{label}", page.name
            assert resolved(heading) is resolved(target), page.name


def test_the_index_of_the_reference_has_every_public_name():
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\.md#([\w.]+)\)", index))
    shared = {f"probes.{name}" for name in probes.__all__ if name in mtd_lens.errors.__all__}
    assert linked == set(NAMES) - shared


def test_the_site_loads_nothing_from_elsewhere():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config
    assert not re.search(r"https?://", config)


def test_formulas_become_mathml_and_code_stays():
    pytest.importorskip("latex2mathml", reason="installed by `make docs`")
    from tutorials.site.formulas import with_mathml

    found = with_mathml("<p>$x &lt; 1$ and</p><code>$HOME and $x</code><p>$$\\frac{a}{b}$$</p>")
    assert found.count("<math") == 2
    assert "<mo><" not in found
    assert 'display="block"' in found
    assert "<code>$HOME and $x</code>" in found
    assert with_mathml("5 $ and 6 $ more") == "5 $ and 6 $ more"


def test_formulas_of_pages_become_mathml_before_markdown():
    pytest.importorskip("latex2mathml", reason="installed by `make docs`")
    from tutorials.site.formulas import on_page_markdown

    text = "Before,\n\n$$a_{i}\n= b_{i}$$\n\nand $HOME.\n"
    page, notebook = (
        SimpleNamespace(file=SimpleNamespace(src_uri=f"a.{x}")) for x in ("md", "ipynb")
    )
    found = on_page_markdown(text, page)
    assert (
        found.count(
            '<div class="formula"><math xmlns="http://www.w3.org/1998/Math/MathML" display="block"'
        )
        == 1
    )
    assert "$$" not in found
    assert "and $HOME." in found
    assert on_page_markdown(text, notebook) == text
