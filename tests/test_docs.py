"""The documentation: complete, resolvable, and with examples that run."""

import ast
import doctest
import importlib
import inspect
import re
import textwrap
import typing
from dataclasses import is_dataclass
from pathlib import Path

import pytest

import mtd_lens
import probes
from probes.errors import MTDLensError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "tutorials"
PACKAGES = (mtd_lens, probes)
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Examples")
SHARED = "Parameters of the methods"
"""Section of a protocol's docstring that describes parameters which its methods share."""

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
IDS = [f"{package.__name__}.{name}" for package, name in PUBLIC]


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


CALLABLES = public_callables()
CLASSES = public_classes()


def sections(docstring):
    """The docstring's text by section: entries by name for all but ``Returns``."""
    found = {"": []}
    current = ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        title = re.fullmatch(r"(\w[\w ]*):", line)
        if title and title[1] in (*SECTIONS, SHARED):
            current = title[1]
            found[current] = []
        elif line and not line.startswith(" ") and current:
            current = ""
            found[current].append(line)
        else:
            found[current].append(line)
    return {title: textwrap.dedent("\n".join(lines)) for title, lines in found.items()}


def entries(text):
    """``name: description`` entries of a section; in a list, ``- ``name``: description``."""
    found = {}
    name = None
    for line in text.splitlines():
        start = re.match(r"(?:- ``)?([*\w]+)(?:``)?: ?(.*)", line)
        if start:
            name = start[1]
            found[name] = start[2]
        elif name:
            found[name] += " " + line.strip()
    return found


def annotation_text(annotation):
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def uncaught(node):
    """Nodes of a syntax tree, but for what stands in a ``try`` that catches our errors."""
    yield node
    for child in ast.iter_child_nodes(node):
        caught = isinstance(child, ast.Try) and any(
            ast.unparse(handler.type or ast.Name("any")) in ("any", "Exception", "MTDLensError")
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
            if inspect.isclass(error) and issubclass(error, MTDLensError):
                found.add(error)
    return found


def parameters_of(function):
    signature = inspect.signature(inspect.unwrap(function))
    return {
        ("*" * (p.kind is p.VAR_POSITIONAL) + "**" * (p.kind is p.VAR_KEYWORD)) + name: p
        for name, p in signature.parameters.items()
        if name not in ("self", "cls")
    }


def returns_something(function):
    annotation = inspect.signature(inspect.unwrap(function)).return_annotation
    return annotation not in (None, "None", inspect.Signature.empty, typing.Never)


def missing_in(name, function, owner=None):
    """What a function's docstring should say and does not."""
    found = sections(function.__doc__)
    shared = sections(owner.__doc__).get(SHARED, "") if owner else ""
    described = entries(shared) | entries(found.get("Args", ""))
    if not found[""].strip():
        yield f"{name}: no docstring"
        return
    parameters = parameters_of(function)
    for key, parameter in parameters.items():
        if not described.get(key, "").strip():
            yield f"{name}: parameter {key} is not described"
        elif TENSORS.search(annotation_text(parameter.annotation)) and not SHAPE.search(
            described[key]
        ):
            yield f"{name}: parameter {key} has no shape"
    for key in entries(found.get("Args", "")).keys() - parameters.keys():
        yield f"{name}: there is no parameter {key}"
    documented = set(entries(found.get("Raises", "")))
    for error in raised_by(function):
        known = documented & {base.__name__ for base in error.__mro__}
        if not known and (name, error.__name__) not in NEVER:
            yield f"{name}: raises {error.__name__}, which is not described"
    if returns_something(function):
        returned = found.get("Returns", "")
        annotation = annotation_text(inspect.signature(function).return_annotation)
        summary = found[""].strip()
        if not returned.strip() and not NAMES_A_RESULT.match(summary):
            yield f"{name}: what it returns is not described"
        elif TENSORS.search(annotation) and not SHAPE.search(returned or summary):
            yield f"{name}: what it returns has no shape"


@pytest.mark.parametrize(
    ("name", "function", "owner"), CALLABLES, ids=[name for name, _, _ in CALLABLES]
)
def test_functions_say_what_they_take_return_and_raise(name, function, owner):
    assert list(missing_in(name, function, owner)) == []


def fields_of(cls):
    """What instances of a class are made of: annotated attributes, or arguments of its own."""
    annotations = {
        key: annotation_text(value)
        for key, value in vars(cls).get("__annotations__", {}).items()
        if not key.startswith("_")
    }
    if is_dataclass(cls) or "__init__" not in vars(cls) or getattr(cls, "_is_protocol", False):
        return annotations
    return {key: annotation_text(p.annotation) for key, p in parameters_of(cls.__init__).items()}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_classes_describe_their_fields(cls):
    found = sections(cls.__doc__)
    assert found[""].strip()
    described = entries(found.get("Attributes", "")) | entries(found.get("Args", ""))
    missing = [
        f"{key} has no {'shape' if key in described else 'description'}"
        for key, annotation in fields_of(cls).items()
        if not issubclass(cls, BaseException)
        and (
            not described.get(key, "").strip()
            or (TENSORS.search(annotation) and not SHAPE.search(described[key]))
        )
    ]
    for key, member in vars(cls).items():
        if isinstance(member, property) and not key.startswith("_"):
            text = member.fget.__doc__ or described.get(key, "")
            hint = annotation_text(inspect.signature(member.fget).return_annotation)
            if not text:
                missing.append(f"{key} has no description")
            elif TENSORS.search(hint) and not SHAPE.search(text):
                missing.append(f"{key} has no shape")
    assert missing == []


QUANTITIES = {
    "probes.kl_divergence": ["nats"],
    "probes.key_softmax_divergence": ["nats"],
    "probes.random_simplex_map": ["Hewitt & Liang"],
    "probes.run_interchange": ["Geiger et al. 2021"],
    "probes.fit_alignment": ["Geiger et al. 2024"],
    "probes.relative_scores": ["Shaw et al. 2018"],
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
    "mtd_lens.read_weights": ["nats"],
}
"""Units and sources that the docstring of what has one must give."""


@pytest.mark.parametrize(("name", "words"), QUANTITIES.items())
def test_quantities_have_their_units_and_sources(name, words):
    package, _, attribute = name.partition(".")
    text = " ".join(inspect.getdoc(getattr(importlib.import_module(package), attribute)).split())
    assert [word for word in words if word not in text] == []


def test_a_docstring_that_leaves_something_out_is_noticed():
    def bad(first: "Float[Tensor, 'a']", second: int) -> "Tensor":
        """Make something.

        Args:
            first: A thing.
            third: Another.
        """
        raise MTDLensError("no")

    found = [text.removeprefix("bad: ") for text in missing_in("bad", bad)]
    assert found == [
        "parameter first has no shape",
        "parameter second is not described",
        "there is no parameter third",
        "raises MTDLensError, which is not described",
        "what it returns is not described",
    ]


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("mtd_lens", "probes")
    for path in (ROOT / package).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    tests = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


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
    counts = dict.fromkeys(IDS, 0)
    for _, target in DIRECTIVES:
        name, found = target.rpartition(".")[2], resolved(target)
        homes = [f"{p.__name__}.{n}" for p, n in PUBLIC if n == name and getattr(p, n) is found]
        assert homes, f"{target} is not public"
        for home in homes:
            counts[home] += 1
    assert {name: count for name, count in counts.items() if count != 1} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_headings_and_anchors_of_the_reference_are_the_public_names(page):
    """An anchor, the directive, and its options: the heading, and the entry in the contents."""
    text = page.read_text(encoding="utf-8")
    pattern = (
        r"^\[\]\(\)\{#(\S+)\}\n(?:\[\].+\n)?\n::: (\S+)\n    options:\n"
        r"      heading: (\S+)\n      toc_label: (\S+)$"
    )
    found = re.findall(pattern, text, re.MULTILINE)
    assert len(found) == len(re.findall("^::: ", text, re.MULTILINE))
    for anchor, target, heading, label in found:
        assert anchor == heading == f"{heading.partition('.')[0]}.{label}"
        assert resolved(heading) is resolved(target)


def test_the_index_of_the_reference_has_every_public_name():
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\.md#(\w+\.\w+)\)", index))
    shared = {f"probes.{name}" for name in probes.__all__ if name in mtd_lens.errors.__all__}
    assert linked == set(IDS) - shared


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
