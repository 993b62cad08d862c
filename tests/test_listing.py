"""What there is, listed."""

import json

from typer.testing import CliRunner

from sclip_plugin.cli.program import app
from sclip_plugin.protocols.presets import list_presets


def lines(*arguments):
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.exception
    return said.stdout.splitlines()


def test_presets_are_listed_with_their_methods():
    assert [line.split()[0] for line in lines("presets")] == [*list_presets()]
    assert {"preset": "sclip/voc21", "method": "csa"} in map(json.loads, lines("presets", "--json"))


def test_models_are_listed_as_the_option_takes_them():
    names = [line.split()[0] for line in lines("models")]
    assert names[0] == "demo" and "open_clip:ViT-B-16/openai" in names and len({*names}) == len(names)
    assert [json.loads(line)["model"] for line in lines("models", "--json")] == names
