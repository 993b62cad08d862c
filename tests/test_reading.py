"""Text files as other systems write them, and YAML and JSON that would do harm."""

import time

import pytest

from sclip_plugin.errors import LabelError
from sclip_plugin.storage.reading import TextFileError, brief, lines_of, load_json, load_yaml, read_text
from sclip_plugin.text.files import looks_like_file, read_labels, split_labels

TEXT = "Katze\nKühe, Rinder\n猫\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_marked_encodings_and_any_line_ends_are_read(tmp_path, encoding, ends):
    (tmp_path / "labels.txt").write_bytes(TEXT.replace("\n", ends).encode(encoding))
    assert lines_of(read_text(tmp_path / "labels.txt")) == TEXT.split("\n")[:-1]
    assert read_labels(tmp_path / "labels.txt") == [["Katze"], ["Kühe", "Rinder"], ["猫"]]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("Kühe".encode("latin-1"), "byte 0xfc at 1"),
        ("Katze\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\xff\xfeabc", "UTF-16-LE"),
    ],
)
def test_other_encodings_are_refused_by_name(tmp_path, data, says):
    (tmp_path / "labels.txt").write_bytes(data)
    with pytest.raises(LabelError, match=says) as error:
        read_labels(tmp_path / "labels.txt")
    assert "labels.txt" in str(error.value)


def test_separators_within_a_name_end_no_line():
    assert lines_of("a\u2028b\x0bc\n") == ["a\u2028b\x0bc"]


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("l.txt", "# mine\ncat\n\n  sofa | couch \n", [["cat"], ["sofa", "couch"]]),
        ("l.names", "cat, kitty\ndog\n", [["cat", "kitty"], ["dog"]]),
        ("l.txt", "# one line\ncat, dog, sofa|couch", [["cat"], ["dog"], ["sofa", "couch"]]),
        (
            "l.json",
            '["cat", "door, double door", ["sofa", "couch"]]',
            [["cat"], ["door", "double door"], ["sofa", "couch"]],
        ),
        (
            "l.json",
            '{"pet": "cat, dog", "sofa": ["sofa", "couch"]}',
            {"pet": ["cat", "dog"], "sofa": ["sofa", "couch"]},
        ),
        ("l.yaml", "- cat\n- [sofa, couch]\n", [["cat"], ["sofa", "couch"]]),
        ("l.yml", "\ufeffcat: [kitty, cat]\ndog:\n- hound\n", {"cat": ["kitty", "cat"], "dog": ["hound"]}),
    ],
)
def test_one_rule_for_files_of_labels(tmp_path, name, text, classes):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / name) == classes


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("l.txt", "# nothing\n\n", "no names"),
        ("l.yaml", "- cat\n- yes\n", "class 1 .* is True, a bool.*quotes"),
        ("l.yaml", "- cat\n- {name: dog}\n", "class 1 .* a dict"),
        ("l.yaml", "1: cat", "a label .* is 1, a int"),
        ("l.yaml", "cat: []", "without names"),
        ("l.json", '"cat"', "expected a list of names"),
        ("l.json", '["cat",', "cannot be read as JSON"),
        ("l.yaml", "[" * 3000, "nested more than 40 deep"),
        ("l.yaml", "a: b: c", "cannot be read as YAML"),
    ],
)
def test_what_names_no_classes_is_said(tmp_path, name, text, says):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(LabelError, match=says):
        read_labels(tmp_path / name)


def test_a_file_that_is_not_there_or_no_file(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(LabelError, match=path.name):
            read_labels(path)


def test_a_path_given_as_labels_is_told_from_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/coco.names").write_text("cat")
    (tmp_path / "cat").write_text("")
    assert looks_like_file("lab/coco.names")
    assert not any(map(looks_like_file, ("cat", "cat, dog", "lab", "no/such.names", "a\0b.txt")))
    assert split_labels("cat, ,sofa|couch|,") == [["cat"], ["sofa", "couch"]]


def alias_bomb(levels: int, width: int, merge: bool = False) -> str:
    lines = ["a0: &a0 {k: v}" if merge else "a0: &a0 [x]"]
    for level in range(1, levels):
        parts = ",".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{parts}]}}" if merge else f"[{parts}]"))
    return "\n".join(lines)


class TestHostileTrees:
    @pytest.mark.parametrize("merge", [False, True])
    def test_an_alias_bomb_is_a_sentence(self, merge):
        start = time.perf_counter()
        with pytest.raises(TextFileError, match="mine.yaml holds more than 200,000 values") as error:
            load_yaml(alias_bomb(12, 9, merge), "mine.yaml")
        assert len(str(error.value)) < 200 and time.perf_counter() - start < 10

    @pytest.mark.parametrize(
        "text",
        [
            "[" * 5000,
            "- " * 5000,
            "&a [*a]",
            "a: 2001-99-99",
            "x: " + "9" * 5000,
            "? [a]\n: 1",
            "\x01",
            "a: !!python/object:os.system x",
        ],
    )
    def test_other_harm_is_a_sentence(self, text):
        with pytest.raises(TextFileError) as error:
            load_yaml(text, "mine.yaml")
        assert str(error.value).startswith("mine.yaml") and len(str(error.value)) < 500

    def test_deep_json(self):
        for text in ("[" * 100_000, "[" * 50 + "]" * 50):
            with pytest.raises(TextFileError, match="mine.json"):
                load_json(text, "mine.json")

    def test_aliases_as_people_use_them_are_read(self):
        text = "base: &base {window: 224}\nmine: {<<: *base, stride: 112}"
        assert load_yaml(text, "x")["mine"] == {"window": 224, "stride": 112}
        assert load_yaml("", "x") is None

    def test_values_in_messages_are_short(self):
        tree = ["x" * 1000]
        for _ in range(30):
            tree = [tree] * 100
        assert len(brief(tree)) <= 120
