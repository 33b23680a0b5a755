"""Prompt sets: what they read, what they refuse, and every sentence they make."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import open_clip
import pytest
import yaml
from hub_folders import biomedclip_like, reference
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from tokenizers import Tokenizer

from embedstore.backbones import load_backbone
from embedstore.backbones.tokens import token_counts
from embedstore.cli import _run
from embedstore.errors import EmbedstoreError, UnknownName, UsageError
from embedstore.phantomclip import FOLDER
from embedstore.phantomclip.sentences import every_text
from embedstore.prompts.building import build
from embedstore.prompts.expand import Variant, count, expand
from embedstore.prompts.lengths import check_lengths
from embedstore.prompts.reading import Item, Source, read_yaml
from embedstore.prompts.sets import PromptSet, built_in, load, path_of

SMALL = """\
classes: {A: [a, 1], B: [b, 2]}
descriptions:
  main:
    A: "{very|quite} fatty"
    B: dense
    negations: {A: not dense}
  other:
    A: fat
    B: [thick, heavy]
slots:
  film: [film, picture]
templates:
  - "{n=The breast|The breasts} {n=is|are} {}."
  - "A {film}: {label}; the same {film=on film|in a picture}."
ensembles: [templates, descriptions, all]
"""


def of(text: str, tmp_path: Path, name: str = "mine.yaml") -> PromptSet:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load(path)


def sentences(variants: Any) -> set[str]:
    return {s for v in variants for texts in v.sentences.values() for s in texts}


def by_parts(prompts: PromptSet, **wanted: str) -> list[Variant]:
    return [v for v in expand(prompts) if wanted.items() <= v.parts.items()]


def test_slots_of_one_name_agree_and_others_are_all_combined(tmp_path: Path) -> None:
    found = by_parts(of(SMALL, tmp_path), descriptions="main", negation="no")
    frames = ["The breast is {}.", "The breasts are {}."]
    frames += ["A film: {}; the same on film.", "A picture: {}; the same in a picture."]
    expected = {
        (f.replace("{}", f"{how} fatty"), f.replace("{}", "dense"))
        for f in frames
        for how in ("very", "quite")
    }
    single = [v for v in found if "ensemble" not in v.parts]
    assert {tuple(v.sentences[c][0] for c in "AB") for v in single} == expected
    assert len(single) == len(expected)


def test_parts_say_which_words_were_taken(tmp_path: Path) -> None:
    for v in by_parts(of(SMALL, tmp_path), descriptions="main", negation="no"):
        if "ensemble" not in v.parts:
            how = v.parts["A: very|quite"]
            assert f" {how} fatty" in v.sentences["A"][0]
            assert v.parts.get("n", v.parts.get("film", "")) in v.sentences["B"][0]


def test_negations_stand_in_for_the_class_they_are_of(tmp_path: Path) -> None:
    found = by_parts(of(SMALL, tmp_path), descriptions="main", negation="yes")
    made = {(v.sentences["A"], v.sentences["B"]) for v in found if "ensemble" not in v.parts}
    assert made == {
        ((frame.format("not dense"),), (frame.format("dense"),))
        for frame in (
            "The breast is {}.",
            "The breasts are {}.",
            "A film: {}; the same on film.",
            "A picture: {}; the same in a picture.",
        )
    }


def test_a_list_of_texts_is_an_ensemble_within_the_class(tmp_path: Path) -> None:
    (v, *_) = by_parts(of(SMALL, tmp_path), descriptions="other", n="The breasts")
    assert v.sentences["B"] == ("The breasts are thick.", "The breasts are heavy.")


def test_ensembles_hold_what_the_single_variants_say(tmp_path: Path) -> None:
    prompts = of(SMALL, tmp_path)
    single = [v for v in expand(prompts) if "ensemble" not in v.parts]
    positive = [v for v in single if v.parts["negation"] == "no"]
    (everything,) = by_parts(prompts, ensemble="all")
    for c in "AB":
        assert set(everything.sentences[c]) == {s for v in positive for s in v.sentences[c]}
    wanted = {"ensemble": "templates", "descriptions": "main", "negation": "no"}
    for v in by_parts(prompts, **wanted):
        same = [w for w in positive if w.parts["descriptions"] == "main"]
        assert set(v.sentences["A"]) == {s for w in same for s in w.sentences["A"]}
    fixed = by_parts(prompts, ensemble="descriptions", n="The breast")
    same = [w for w in positive if w.parts.get("n") == "The breast"]
    assert [set(v.sentences["A"]) for v in fixed] == [
        {s for w in same for s in w.sentences["A"]},
    ]
    for v in expand(prompts):
        assert all(len(set(texts)) == len(texts) for texts in v.sentences.values())


@pytest.mark.parametrize("asked", ["", "templates", "descriptions", "all", "all, templates"])
def test_counting_is_as_expanding(asked: str, tmp_path: Path) -> None:
    text = SMALL.replace("[templates, descriptions, all]", f"[{asked}]")
    prompts = of(text, tmp_path)
    found = list(expand(prompts))
    assert count(prompts) == len(found) == len({v.name for v in found})
    kinds = {v.parts["ensemble"] for v in found if "ensemble" in v.parts}
    assert kinds == {a for a in asked.split(", ") if a}


WORDS = st.text("abcxyz", min_size=1, max_size=4)
SLOTS = st.lists(st.lists(WORDS, min_size=2, max_size=3, unique=True), max_size=3)


@given(SLOTS, st.lists(WORDS, min_size=2, max_size=4, unique=True))
def test_a_template_gives_the_product_of_its_slots(
    slots: list[list[str]], texts: list[str]
) -> None:
    template = " ".join(f"{{{'|'.join(s)}}}" for s in slots) + " is {}"
    source = Source("a test")
    names = [f"c{i}" for i in range(len(texts))]
    tree = yaml.safe_dump(
        {
            "classes": names,
            "descriptions": {"d": dict(zip(names, texts, strict=True))},
            "templates": [template],
        }
    )
    prompts = build(read_yaml(tree, source), source, "x")
    made = [tuple(v.sentences[n][0] for n in names) for v in expand(prompts)]
    expected = [
        tuple(" ".join([*picks, "is", text]) for text in texts)
        for picks in itertools.product(*slots)
    ]
    assert made == expected
    assert count(prompts) == math.prod(map(len, slots))


def test_a_set_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    slot = "{" + "|".join(f"w{i}" for i in range(10)) + "}"
    text = "classes: [A, B]\ndescriptions: {d: {A: a, B: b}}\ntemplates: ['%s {}']\n"
    prompts = of(text % " ".join([slot] * 5), tmp_path)
    assert count(prompts) == 100_000 == sum(1 for _ in expand(prompts))
    tracemalloc.start()
    for _ in itertools.islice(expand(prompts), 10_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    huge = of(text % " ".join([slot] * 40), tmp_path)
    assert count(huge) == 10**40
    assert next(expand(huge)).sentences["B"] == (" ".join(["w0"] * 40) + " b",)


def test_an_ensemble_that_fits_in_no_memory_is_refused(tmp_path: Path) -> None:
    slot = "{" + "|".join(f"w{i}" for i in range(10)) + "}"
    text = "classes: [A, B]\ndescriptions: {d: {A: a, B: b}}\nensembles: [all]\n"
    prompts = of(text + f"templates: ['{' '.join([slot] * 9)} {{}}']\n", tmp_path)
    with pytest.raises(UsageError, match="'all' is of 1,000,000,000 sentences a class"):
        expand(prompts)


# what comes with embedstore


@pytest.mark.parametrize("name", built_in())
def test_built_in_sets_make_sentences(name: str) -> None:
    prompts = load(name)
    assert prompts.name == name
    assert prompts.source
    found = list(expand(prompts))
    assert len(found) == count(prompts) == len({v.name for v in found})
    for v in found:
        flat = [s.casefold() for texts in v.sentences.values() for s in texts]
        assert len(set(flat)) == len(flat), v.name
    for s in sentences(found):
        assert s == s.strip()
        assert not re.search(r"[{}|=]|  |\.\.| [.,:;)]|\( ", s), s
        assert not re.search(r"\ba [aeio]|\ban [^aeioXM]", s, re.IGNORECASE), s
        assert not re.search(r"\b(breasts|areas) (is|appears)\b", s), s
        assert not re.search(r"\b(breast|tissue|film|mammogram) (are|appear)\b", s), s
        assert not re.search(r"\b(\w+) \1\b", s, re.IGNORECASE), s
        assert s[0].isupper(), s


WRITTEN = {
    "birads-density": [
        ["A", "B", "C", "D"],
        ["a", "b", "c", "d"],
        ["1", "2", "3", "4"],
        ["1.0", "2.0", "3.0", "4.0"],
        ["DENSITY A", "DENSITY B", "DENSITY C", "DENSITY D"],
        ["bi_rads a", "BI-RADS b", "BIRADS C", "Birads-d"],
        [
            "Fatty predominance",
            "Characterized by scattered areas of pattern density",
            "Heterogeneously dense",
            "Extremely dense",
        ],
        ["fatty", "scattered", "heterogeneous", "extreme"],
    ],
    "laterality": [["L", "R"], ["left", "right"], ["LEFT", "Right"]],
    "view": [["CC", "MLO"], ["cc", "mlo"], ["Cranio-Caudal", "mediolateral oblique"]],
    "mias-tissue": [["fatty", "fatty-glandular", "dense-glandular"], ["F", "G", "D"]],
    "film-label": [["no", "yes"], ["0", "1"], ["False", "True"]],
}


@pytest.mark.parametrize("name", built_in())
def test_labels_are_known_however_they_are_written(name: str) -> None:
    prompts = load(name)
    expected = [list(v.sentences.values()) for v in expand(prompts)]
    for values in WRITTEN[name]:
        found = list(expand(prompts, values[::-1]))
        assert all(list(v.sentences) == values for v in found)
        assert [list(v.sentences.values()) for v in found] == expected


def test_a_table_without_some_classes_has_the_rest_in_order() -> None:
    found = list(expand(load("birads-density"), ["4", "2"]))
    assert all(list(v.sentences) == ["2", "4"] for v in found)
    assert count(load("birads-density"), ["4", "2"]) == len(found)


def test_the_study_s_prompts_are_its_own() -> None:
    (found,) = [
        v
        for v in by_parts(load("birads-density"), descriptions="molina2025")
        if "ensemble" not in v.parts
    ]
    assert found.sentences == {
        "A": ("The breast is Fatty predominance",),
        "B": ("The breast is Characterized by scattered areas of pattern density",),
        "C": ("The breast is Heterogeneously dense",),
        "D": ("The breast is Extremely dense",),
    }


# files


def plain(item: Item) -> Any:
    if isinstance(item.value, dict):
        return {k: plain(v) for k, v in item.value.items()}
    return [plain(v) for v in item.value] if isinstance(item.value, list) else item.value


@pytest.mark.parametrize("name", built_in())
def test_yaml_is_read_as_pyyaml_reads_it(name: str) -> None:
    text = path_of(name).read_text(encoding="utf-8")
    assert plain(read_yaml(text, Source(name))) == yaml.load(text, Loader=yaml.BaseLoader)


TREES = st.recursive(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab: {}", max_size=4), inner)
    ),
    max_leaves=8,
)


@given(TREES.filter(bool))
def test_any_yaml_of_texts_is_read_as_pyyaml_reads_it(tree: Any) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True)
    assert plain(read_yaml(text, Source("x"))) == yaml.load(text, Loader=yaml.BaseLoader)


CSV = """\
class,description,set,aliases,template
A,fatty,main,a|1,The breast is {}.
B,"dense, all over",main,b|2,"{A film|A picture}: {}"
A,fat,other,,
B,thick,other,,
"""
AS_YAML = """\
classes: {A: [a, 1], B: [b, 2]}
descriptions:
  main: {A: fatty, B: "dense, all over"}
  other: {A: fat, B: thick}
templates: ["The breast is {}.", "{A film|A picture}: {}"]
"""


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "BOM"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_the_same_set(separator: str, start: str, tmp_path: Path) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(csv.reader(io.StringIO(CSV)))
    found = of(start + text.getvalue(), tmp_path, "mine.csv")
    same = of(start + AS_YAML, tmp_path)
    assert list(expand(found, ["2", "1"])) == list(expand(same, ["2", "1"]))
    assert [v.sentences["1"][0] for v in expand(found, ["2", "1"])] == [
        *("The breast is fatty.", "A film: fatty", "A picture: fatty"),
        *("The breast is fat.", "A film: fat", "A picture: fat"),
    ]


def test_csv_without_templates_is_of_sentences(tmp_path: Path) -> None:
    text = "class,description\nA,All fat.\nA,Only fat.\nB,All dense.\n"
    (found,) = expand(of(text, tmp_path, "mine.csv"))
    assert found.sentences == {"A": ("All fat.", "Only fat."), "B": ("All dense.",)}


GOOD = "classes: [A, B]\ndescriptions: {d: {A: fat, B: dense}}\ntemplates: ['It is {}']\n"
LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
BAD = {
    "tag": (GOOD + "title: !!python/name:os.system x\n", 4, "tag"),
    "own tag": ("classes: !mine [A, B]\n", 1, "tag '!mine'"),
    "billion laughs": (LAUGHS, 1, "anchor or alias 'a'"),
    "alias": (GOOD + "title: *x\n", 4, "alias 'x'"),
    "key twice": (GOOD + "templates: ['{}']\n", 4, "'templates' stands here twice"),
    "class twice": (GOOD.replace("B: dense", "B: dense, A: x"), 2, "'A' stands here twice"),
    "unknown key": (GOOD + "template: x\n", 4, "unknown key 'template'"),
    "not YAML": (GOOD + "title: 'x\n", 5, "not YAML"),
    "unquoted": ("templates:\n  - {a|b} is {}\n", 2, "needs quotes"),
    "no text": (GOOD + "title: [a]\n", 4, "title must be a text"),
    "two documents": (GOOD + "---\nx: 1\n", 4, "second YAML document"),
    "a list": ("- A\n- B\n", 1, "must be a mapping"),
    "nothing": ("# only a comment\n", 1, "is empty"),
    "deep": ("classes: " + "[" * 20, 1, "nested more than 16 deep"),
    "very deep": ("classes: " + "[" * 60_000, 1, "nest"),
    "deep blocks": ("- " * 100_000, 1, "nest"),
    "control": (GOOD + "title: \x00\n", 4, "not YAML"),
    "no classes": (GOOD.replace("classes", "name"), 1, "`classes:` is missing"),
    "no templates": (GOOD.split("templates")[0], 1, "`templates:` is missing"),
    "one class": (GOOD.replace("[A, B]", "[A]"), 1, "1 class"),
    "alias of two": (GOOD.replace("[A, B]", "{A: [x], B: [X]}"), 1, "'X' is of A and of B"),
    "no prompt": (GOOD.replace(", B: dense", ""), 2, "'d' has no description of B"),
    "no class": (GOOD.replace("B: dense", "B: dense, C: x"), 2, "describes 'C', which is no class"),
    "empty text": (GOOD.replace("B: dense", "B: ' '"), 2, "description of B in 'd' is empty"),
    "none": (GOOD.replace("B: dense", "B: []"), 2, "empty description of B"),
    "same": (GOOD.replace("dense", "Fat"), 2, "the same text for A and B: 'fat'"),
    "slots meet": (GOOD.replace("fat,", "'{very |}dense',"), 2, "for A and B: 'dense'"),
    "empty template": (GOOD.replace("It is {}", ""), 3, "a template is empty"),
    "no template": (GOOD.replace("['It is {}']", "[]"), 3, "templates are empty"),
    "without a slot": (GOOD.replace("{}", "so"), 3, "'It is so' has no {}"),
    "template twice": (GOOD.replace("['", "['It is {}', '"), 3, "stands here twice"),
    "unknown slot": (GOOD.replace("{}", "{} {x}"), 3, "unknown slot {x}"),
    "open brace": (GOOD.replace("{}", "{} {a|b"), 3, "unbalanced brace"),
    "close brace": (GOOD.replace("{}", "{} a|b}"), 3, "unbalanced brace"),
    "nested": (GOOD.replace("{}", "{} {a|{b|c}}"), 3, "unbalanced brace"),
    "slot twice": (GOOD.replace("{}", "{} {a|b|a}"), 3, "alternative 'a' stands twice"),
    "of two sizes": (GOOD.replace("{}", "{n=a|b} {n=a|b|c} {}"), 3, "slot 'n' has 3 alternatives"),
    "slot in text": (GOOD.replace("fat,", "'{} fat',"), 2, "that is for templates"),
    "can be empty": (GOOD.replace("fat,", "'{fat|}',"), 2, "can become empty"),
    "short slot": (GOOD + "slots: {x: [a]}\n", 4, "needs a list of two"),
    "ensemble": (GOOD + "ensembles: [both]\n", 4, "not 'both'"),
    "form": (GOOD.replace("{A: fat", "{form: noun, A: fat"), 2, "is of the form 'noun'"),
    "no form": (GOOD.replace("['It is {}']", "{noun: ['{}']}"), 2, "needs a `form:`"),
    "negation": (GOOD.replace("B: dense", "B: dense, negations: {C: x}"), 2, "'C', no class"),
    "name taken": (
        GOOD.replace("B: dense}", "B: dense, negations: {A: slim}}, 'd, negated': {A: x, B: y}"),
        2,
        "two descriptions are called 'd, negated'",
    ),
    "negation same": (
        GOOD.replace("B: dense", "B: dense, negations: {A: dense}"),
        2,
        "'d, negated' has the same text",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_yaml_is_one_line_with_file_line_and_reason(case: str, tmp_path: Path) -> None:
    text, line, reason = BAD[case]
    with pytest.raises(UsageError) as caught:
        of(text, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}:{line}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_good_one_is_good(tmp_path: Path) -> None:
    assert sentences(expand(of(GOOD, tmp_path))) == {"It is fat", "It is dense"}


BAD_CSV = {
    "columns": ("class,text\nA,fat\n", 1, "no column description"),
    "nothing": ("", 1, "no column class and description"),
    "odd column": ("class,description,colour\n", 1, "column 'colour'"),
    "twice": ("class,description,class\n", 1, "column 'class'"),
    "comma": ("class,description\nA,fat\nB,dense, all over\n", 3, "3 cells for 2 columns"),
    "no class": ("class,description\nA,fat\n,dense\n", 3, "without a class"),
    "no text": ("class,description\nA,fat\nB,\n", 3, "description of B in 'main' is empty"),
    "brace": ('class,description\nA,"fat\nor so"\nB,dense}\n', 4, "unbalanced brace"),
    "lines": ('class,description,template\nA,fat,"{}\n{x\ny}"\nB,dense,\n', 2, "slot {x y}"),
    "quote": ('class,description\nA,"fat\n', 2, "is not CSV"),
    "one class": ("class,description\nA,fat\n", 1, "1 class"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_is_one_line_with_file_line_and_reason(case: str, tmp_path: Path) -> None:
    text, line, reason = BAD_CSV[case]
    with pytest.raises(UsageError) as caught:
        of(text, tmp_path, "mine.csv")
    assert str(caught.value).startswith(f"{tmp_path / 'mine.csv'}:{line}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mine.yaml", "mine.csv"])
def test_what_is_not_a_small_utf_8_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes("class,description\nA,très gras\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r":2: byte 0xe8 is not UTF-8; save the file as UTF-8"):
        load(path)
    path.write_bytes("class,description\nA,fat\n".encode("utf-16"))
    with pytest.raises(UsageError, match=":1: byte 0xff is not UTF-8"):
        load(path)
    path.write_bytes(b"# " + b"x" * 1_000_000)
    with pytest.raises(UsageError, match="over 1 MB"):
        load(path)
    path.unlink()
    with pytest.raises(UnknownName, match="no such file; built-in prompt sets are birads-density"):
        load(path)


def test_labels_that_do_not_fit_are_named() -> None:
    prompts = load("laterality")
    with pytest.raises(UsageError, match=r"label 'up'; it knows L \(left.*as an alias"):
        expand(prompts, ["left", "up"])
    with pytest.raises(UsageError, match="'L' and 'left' are both L"):
        expand(prompts, ["L", "left", "R"])
    with pytest.raises(UsageError, match="there is only R; two"):
        count(prompts, ["R"])


def test_an_alias_of_one_s_own_makes_a_label_known(tmp_path: Path) -> None:
    text = path_of("laterality").read_text(encoding="utf-8").replace("[left,", "[links, left,")
    assert list(next(expand(of(text, tmp_path), ["R", "links"])).sentences) == ["links", "R"]


# tokens


TEXTS = ["fat", "The breasts are extremely dense!", "Mammograms:  unheard-of heterogeneity, 50 %"]


def test_clip_s_tokens_are_counted_as_its_tokenizer_makes_them() -> None:
    tokenizer = open_clip.get_tokenizer("RN50")
    rows = tokenizer(TEXTS, context_length=500)
    assert token_counts(tokenizer, TEXTS) == [int(row.argmax()) + 1 for row in rows]


def test_bert_s_tokens_are_counted_as_its_tokenizer_makes_them(tmp_path: Path) -> None:
    folder = biomedclip_like(tmp_path / "model")
    backbone = load_backbone(str(folder))
    _, tokenizer = reference(folder, tmp_path / "copy")
    rows = tokenizer(TEXTS, context_length=500)
    pad = tokenizer.tokenizer.pad_token_id
    assert backbone.token_counts(TEXTS) == (rows != pad).sum(dim=1).tolist()
    assert backbone.context_length == 40


def test_phantom_clip_reads_every_built_in_sentence_whole() -> None:
    backbone = load_backbone("phantom-clip")
    alone = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    alone.no_truncation()
    texts = sorted(s for name in built_in() for s in sentences(expand(load(name))))
    expected = [len(e.ids) for e in alone.encode_batch(texts)]
    assert backbone.token_counts(texts) == expected
    assert max(expected) <= backbone.context_length == 48
    assert check_lengths(backbone, texts)
    assert check_lengths(backbone, every_text())
    assert backbone.token_counts([]) == []


def test_tokenizers_that_clean_or_add_are_counted_so() -> None:
    hf = load_backbone("phantom-clip").tokenizer
    siglip = SigLipTokenizer.__new__(SigLipTokenizer)
    siglip.tokenizer, siglip.context_length = hf.tokenizer, 64
    pad = hf.tokenizer.pad_token_id
    assert token_counts(siglip, TEXTS) == (siglip(TEXTS) != pad).sum(dim=1).tolist()
    clips = HFTokenizer.__new__(HFTokenizer)
    clips.__dict__.update(hf.__dict__, tokenizer_mode="clips")
    clips.tokenizer.bos_token, clips.tokenizer.eos_token = "[CLS]", "[SEP]"
    assert token_counts(clips, TEXTS) == (clips(TEXTS, 99) != pad).sum(dim=1).tolist()


def test_a_prompt_that_would_be_cut_is_refused() -> None:
    backbone = load_backbone("phantom-clip")
    whole = " ".join(["dense"] * 46)
    cut, shorter = whole + " dense", whole + " fatty"
    # it is cut: another last word makes no other tokens
    assert (backbone.tokenizer([cut]) == backbone.tokenizer([shorter])).all()
    assert check_lengths(backbone, [whole])
    with pytest.raises(UsageError, match=f"'{cut}' is 49 tokens long and the model reads 48"):
        check_lengths(backbone, ["fat"] * 600 + [cut, whole])


def test_a_backbone_that_does_not_count_is_said_to_be_unchecked() -> None:
    assert not check_lengths(load_backbone("statistics"), ["fat"])


# the commands


def test_show_is_a_start_for_one_s_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert _run(["prompts", "show", "birads-density"], debug=True) == 0
    mine = of(capsys.readouterr().out, tmp_path)
    assert list(expand(mine)) == list(expand(load("birads-density")))


def test_expand_prints_every_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["prompts", "expand", "view", "--label-values", "mlo, cc"]
    expected = [
        {
            "name": v.name,
            "sentences": {k: list(s) for k, s in v.sentences.items()},
            "parts": v.parts,
        }
        for v in expand(load("view"), ["cc", "mlo"])
    ]
    assert _run([*command, "--json"], debug=True) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert _run([*command, "--csv"], debug=True) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(r["variant"], r["class"], r["sentence"]) for r in rows] == [
        (v["name"], c, s) for v in expected for c, texts in v["sentences"].items() for s in texts
    ]
    assert _run(command, debug=True) == 0
    shown = capsys.readouterr()
    assert "  mlo  View: MLO." in shown.out.splitlines()
    assert f"{len(expected)} variants" in shown.err


def test_list_names_the_sets_and_their_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["prompts", "list", "--json"], debug=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in rows] == list(built_in())
    for row in rows:
        assert row["variants"] == len(list(expand(load(row["name"]))))
    assert _run(["prompts", "list"], debug=True) == 0
    assert "birads-density" in capsys.readouterr().out


def test_what_would_be_cut_ends_the_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "long.yaml"
    path.write_text(GOOD.replace("It is", "It is" + " so" * 50))
    command = ["prompts", "expand", str(path), "--backbone", "phantom-clip"]
    assert _run(command, debug=False) == 2
    told = capsys.readouterr()
    assert "55 tokens long and the model reads 48" in told.err
    assert not told.out
    with pytest.raises(EmbedstoreError, match="--json or --csv"):
        _run(["prompts", "expand", "view", "--json", "--csv"], debug=True)
