"""Every command line in README.md and docs/ runs as it stands, or is parsed; those of other programs are listed."""

import re
import shlex
import shutil
import sys

import pages
import pytest
from typer.main import get_command

from sclip_plugin.cli.program import app, run

# Lines of sclip that are parsed and not run, and why.
PARSED = {
    "sclip app --model demo": "it serves until it is stopped; tests/integrations/app",
    "sclip serve --model demo": "it serves until it is stopped; tests/integrations/serve",
    'sclip segment photos/ --ray --labels "cat, grass, sky" --model demo --out out/': "tests/integrations/ray",
    "torchrun --nproc-per-node 4 -m sclip_plugin eval voc21 --data DIR --model M": "tests/evaluation/test_runner.py",
    "sclip eval voc21 --data DIR --examples 20 --seed 100 --rns": "training pictures; tests/evaluation/test_support.py",
    "sclip convert pascal-context data/VOCdevkit/VOC2010 --annotations trainval_merged.json": "the Detail API's file; "
    "tests/evaluation/test_conversions.py",
    'sclip segment coffee.png --labels "cup, saucer, spoon, table" --model open_clip:ViT-L-14/datacomp_xl_s13b_b90k': ""
    "weights of open_clip; tests/test_loading.py reads a file of its own",
}
# How lines of other programs begin, and what holds them.
OTHERS = {
    "pip install ": "test_extras",
    "python -m pip install ": "test_extras; .ci/run",
    "python -m pytest": ".ci/run",
    "python benchmarks/": "test_scripts",
    "python -m sclip_plugin.demo.training.": "test_scripts",
    "python -m sclip_plugin.integrations.detectron2.eval ": "tests/integrations/detectron2/test_docs.py",
    "torchrun --nproc-per-node 2 -m sclip_plugin.integrations.detectron2.eval ": "the same",
    "export DETECTRON2_DATASETS=": "the same",
    'python -c "from skimage import data, io; ': "photographs; tests/pages.py draws pictures of these names",
    'python -c "import sclip_plugin as sp; sp.draw_scene(': "choosing; tests/pages.py draws it",
    "curl -F ": "tests/integrations/serve",
}
# What would take minutes otherwise: one scene, smaller pictures, and SAM asked at 4 points in the place of 1,024.
QUICKER = {
    "sclip eval demo ": "sclip eval demo --scenes 1 ",
    "--resize 448 --window 336": "--resize 144 --window 112",
    " sam:facebook/sam-vit-base ": f' "{pages.FEW_MASKS}" ',
}
LINES = [(page, line) for page in pages.PAGES if page != "architecture" for line in pages.commands(page)]
OURS = re.compile(r"sclip |torchrun .*-m sclip_plugin eval ")
SCRIPT = re.compile(r"python (?:benchmarks/|-m sclip_plugin\.demo\.)[^`\n]+")
TEXT = {page: path.read_text(encoding="utf-8") for page, path in pages.PAGES.items()}
SCRIPTS = sorted({line for text in TEXT.values() for line in SCRIPT.findall(text.replace("\\\n", " "))})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    with pages.nothing_stays():
        pages.furnish(folder)
        yield folder


@pytest.fixture(autouse=True)
def _in_it(request, monkeypatch, tmp_path):
    if "folder" in request.fixturenames:
        monkeypatch.chdir(request.getfixturevalue("folder"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("page", sorted({page for page, line in LINES if OURS.match(line) and line not in PARSED}))
def test_commands_run(page, folder, monkeypatch, capsys):
    for line in pages.commands(page):
        if not OURS.match(line) or line in PARSED:
            continue
        shutil.rmtree("out", ignore_errors=True)  # an evaluation with other settings refuses to go on there
        monkeypatch.setattr(sys, "argv", words_of(pages.replaced(line, QUICKER)))
        with pytest.raises(SystemExit) as stop:
            run()
        assert not stop.value.code, f"{line}\n{capsys.readouterr().err}"


def words_of(line: str) -> list[str]:
    """As a shell splits it, from sclip on."""
    words = shlex.split(line, comments=True)
    return words if words[0] == "sclip" else ["sclip", *words[words.index("sclip_plugin") + 1 :]]


@pytest.mark.parametrize("line", PARSED)
def test_commands_are_parsed(line, folder):
    assert line in [line for _, line in LINES], "no page has it any more"
    program = get_command(app)
    for command in _all(program):
        command.callback = None
    assert not program.main(words_of(line)[1:], standalone_mode=False)


def test_a_wrong_option_is_not_parsed():
    """So that the test above can fail."""
    with pytest.raises(Exception, match="No such option"):
        get_command(app).main(["serve", "--model", "demo", "--modle", "x"], standalone_mode=False)


def _all(command):
    yield command
    for part in getattr(command, "commands", {}).values():
        yield from _all(part)


@pytest.mark.parametrize("page", pages.PAGES)
def test_commands_in_sentences(page):
    """`sclip eval all --data data/`: there is such a command, and it has these options."""
    for line in re.findall(r"`sclip ([^`]+)`", TEXT[page]):
        words = line.split()
        command = program = get_command(app)
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not program or words == ["--help"], line
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= {*known, "--help"}, line


def test_no_line_is_left_out():
    left = [line for _, line in LINES if not OURS.match(line) and not line.startswith(tuple(OTHERS))]
    assert left == []
    for start in OTHERS:
        assert any(line.startswith(start) for _, line in LINES), f"no page has {start!r} any more"


@pytest.mark.parametrize("line", SCRIPTS)
def test_scripts(line):
    """`python benchmarks/NAME.py --option`: there is such a file, and it speaks of these options."""
    words = shlex.split(line, comments=True)[1:]
    path = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
    source = (pages.ROOT / path).read_text(encoding="utf-8")
    for option in [word[2:] for word in words if word.startswith("--")]:
        names = (option, option.removeprefix("no-").replace("-", "_"))
        assert any(re.search(rf"\b{name}\b", source) for name in names), f"{path} has no --{option}"


def test_extras():
    """`pip install "sclip_plugin[serve]"`: there is such an extra."""
    project = (pages.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, project = project.partition("[project.optional-dependencies]\n")
    extras = set(re.findall(r"^(\w+) = \[", project.partition("\n[")[0], re.MULTILINE))
    for page, text in TEXT.items():
        for named in re.findall(r"(?:sclip_plugin|install (?:-e )?\"\.)\[([\w,]+)\]", text):
            assert {*named.split(",")} <= extras, (page, named)


def test_models_of_open_clip_are_published():
    """`open_clip:ViT-B-16/openai`: the pages name architectures and weights that open_clip knows."""
    import open_clip

    named = {pair for text in TEXT.values() for pair in re.findall(r"open_clip:([\w.-]+)/([\w.-]+)", text)}
    assert len(named) >= 5 and named - {("ARCH", "PRETRAINED")} <= set(open_clip.list_pretrained())
