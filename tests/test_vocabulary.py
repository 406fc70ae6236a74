"""Class-name and auxiliary-text files: what parses, what is refused, and the shipped ones."""

import logging
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itaclip.errors import InputError
from itaclip.vocabulary import (
    Vocabulary,
    load_auxiliary_texts,
    load_class_names,
    load_vocabulary,
    normalise_name,
    parse_auxiliary_texts,
    parse_class_names,
)

PROJECT = Path(__file__).resolve().parents[1]


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# ---- class names -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "cat, kitten\ndog\n",
        "cat, kitten\ndog",
        "cat, kitten\r\ndog\r\n\r\n",
        "cat, kitten\rdog\r",
        "\ufeffcat, kitten\ndog \t\n   \n\n",
        "  cat,kitten  \n dog",
        "cat ,   kitten\ndog",
    ],
)
def test_every_way_to_write_the_same_classes(tmp_path, content):
    assert load_class_names(write(tmp_path / "cls.txt", content)) == (("cat", "kitten"), ("dog",))


def test_names_keep_their_letters_and_lose_double_spaces():
    assert parse_class_names(["Traffic   Light", "naïve café", "狗"], "f") == (
        ("Traffic Light",),
        ("naïve café",),
        ("狗",),
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["cls.txt", "no class"]),
        ("\ufeff\n \n", ["cls.txt", "no class"]),
        ("cat\n\ndog\n", ["cls.txt:2", "blank", "Delete"]),
        ("cat\ndog,, puppy\n", ["cls.txt:2", "name 2 of 3 is empty"]),
        ("cat,\n", ["cls.txt:1", "name 2 of 2 is empty"]),
        ("cat\ndog, puppy, Dog\n", ["cls.txt:2", "'Dog'", "twice"]),
        ("cat\ndog\nlion,  CAT \n", ["cls.txt:3", "'CAT'", "class 0", "cls.txt:1"]),
        ("cat\nd\x00og\n", ["cls.txt:2", "U+0000"]),
        ("cat\nd\tog\n", ["cls.txt:2", "U+0009"]),
        ("cat\nd\u200bog\n", ["cls.txt:2", "U+200B", "ZERO WIDTH SPACE"]),
        ("cat\nd\u2028og\n", ["cls.txt:2", "U+2028"]),
        ("cat >= small animal\n", ["cls.txt:1", "auxiliary_text_path"]),
        (b"cat\ndog\xff\n", ["cls.txt:2", "UTF-8", "0xff"]),
        ("cat\n".encode("utf-16"), ["cls.txt:1", "UTF-16"]),
    ],
)
def test_bad_class_files_name_file_line_and_remedy(tmp_path, content, words):
    path = write(tmp_path / "cls.txt", content)
    with pytest.raises(InputError) as error:
        load_class_names(path)
    for word in words:
        assert word in str(error.value)


def test_unreadable_files(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_class_names(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match="cannot be read"):
        load_class_names(tmp_path)


def test_only_the_background_may_share_a_name(tmp_path, caplog):
    path = write(tmp_path / "cls.txt", "wall, bed\nbed\ncat\n")
    with pytest.raises(InputError, match="background=True"):
        load_vocabulary(path)
    with caplog.at_level(logging.WARNING):
        vocabulary = load_vocabulary(path, background=True)
    assert vocabulary.queries == ("wall", "bed", "bed", "cat")
    assert "'bed'" in caplog.text
    assert "cls.txt:2" in caplog.text
    with pytest.raises(InputError, match=r"f:3.*class 1"):  # also behind a background's word
        parse_class_names(["wall, bed", "bed", "bed"], "f", background=True)


# ---- auxiliary texts ---------------------------------------------------------------------------


def test_auxiliary_lines():
    lines = ["\ufeffcat >=a small animal\r\n", "dog  >=  a  pet >= \n", "person>=human\n", "\n"]
    assert parse_auxiliary_texts(lines, "f") == {
        "cat": ("a small animal", 1),
        "dog": ("a pet", 2),
        "person": ("human", 3),
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["aux.txt", "no entry"]),
        ("cat >= x\n\ndog >= y", ["aux.txt:2", "blank"]),
        ("cat > x", ["aux.txt:1", "'name >= text'"]),
        ("cat >=", ["aux.txt:1", "text is missing"]),
        ("cat >= >=", ["aux.txt:1", "text is missing"]),
        (">= x", ["aux.txt:1", "class name is missing"]),
        ("cat >= x >= y", ["aux.txt:1", "more than once"]),
        ("cat >= x\ndog >= y\n Cat >= z", ["aux.txt:3", "'Cat'", "aux.txt:1"]),
        ("cat >= x\x07", ["aux.txt:1", "U+0007"]),
        (b"cat >= \xe9", ["aux.txt:1", "UTF-8"]),
    ],
)
def test_bad_auxiliary_lines(tmp_path, content, words):
    path = write(tmp_path / "aux.txt", content)
    with pytest.raises(InputError) as error:
        load_auxiliary_texts(path, (("cat",), ("dog",)))
    for word in words:
        assert word in str(error.value)


CLASSES = (("sky", "wall"), ("ship",), ("television monitor", "tv"), ("trafficlight",), ("table",))


@pytest.mark.parametrize(
    "keys",  # of classes 1 to 4
    [
        ("ship", "television monitor", "trafficlight", "table"),
        ("Ship", " television   Monitor", "TRAFFICLIGHT", "table"),
        ("ship", "tv", "traffic light", "table"),  # another name of the class; words apart
        ("ship", "television monitor, tv", "traffic-light", "table"),  # the class file's line
    ],
)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_keys_that_pair(tmp_path, keys, order):
    lines = [f"{keys[i]} >=text {i + 1}\n" for i in order]
    path = write(tmp_path / "aux.txt", "".join(lines))
    texts = load_auxiliary_texts(path, CLASSES, background=True)
    assert texts == (None, "text 1", "text 2", "text 3", "text 4")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("ship", "tv", "table"), ["cls.txt:4", "'trafficlight' has no text", "aux.txt"]),
        (
            ("ship", "tv", "trafficlight", "table", "lamp"),
            ["aux.txt:5", "'lamp' is no class name", "delete the line"],
        ),
        (
            ("boat", "tv", "trafficlight", "diningtable"),
            [
                "aux.txt:1: the key 'boat'",
                "change the key to 'ship'",
                "aux.txt:4: the key 'diningtable'",
                "'table' (",
            ],
        ),
        (("ship", "tv", "television monitor", "trafficlight", "table"), ["aux.txt:3", "aux.txt:2"]),
        (("wall", "ship", "tv", "trafficlight", "table"), ["aux.txt:1", "background"]),
        (("ship, tv", "trafficlight", "table"), ["aux.txt:1", "no class name"]),
        (("ship", "tv", "trafficlights", "table"), ["aux.txt:3", "Change the key to 'trafficl"]),
    ],
)
def test_keys_that_do_not_pair(tmp_path, keys, words):
    names = write(tmp_path / "cls.txt", "\n".join(", ".join(n) for n in CLASSES))
    aux = write(tmp_path / "aux.txt", "\n".join(f"{key} >= text" for key in keys))
    with pytest.raises(InputError) as error:
        load_vocabulary(names, aux, background=True)
    for word in words:
        assert word in str(error.value)


def test_a_wrong_file_is_reported_briefly(tmp_path):
    names = tuple((f"name {i}",) for i in range(10_000))
    aux = write(tmp_path / "aux.txt", "\n".join(f"zebra {i} >= text" for i in range(10_000)))
    start = time.perf_counter()
    with pytest.raises(InputError) as error:
        load_auxiliary_texts(aux, names)
    assert time.perf_counter() - start < 10
    assert len(str(error.value).splitlines()) < 20


def test_ten_thousand_classes_parse_fast(tmp_path):
    names = write(tmp_path / "cls.txt", "\n".join(f"name {i}, other {i}" for i in range(10_000)))
    aux = write(tmp_path / "aux.txt", "\n".join(f"name {i} >= text {i}" for i in range(10_000)))
    start = time.perf_counter()
    vocabulary = load_vocabulary(names, aux)
    assert time.perf_counter() - start < 5
    assert vocabulary.auxiliary_texts[9_999] == "text 9999"
    assert len(vocabulary.queries) == 20_000


# ---- the vocabulary ----------------------------------------------------------------------------


def test_vocabulary_from_files(tmp_path):
    names = write(tmp_path / "cls.txt", "wall, sky\ncat, kitten\ndog\n")
    aux = write(tmp_path / "aux.txt", "dog >= canine\ncat >= feline\n")
    vocabulary = load_vocabulary(names, aux, background=True)
    assert vocabulary.num_classes == 3
    assert vocabulary.first_names == ("wall", "cat", "dog")
    assert vocabulary.queries == ("wall", "sky", "cat", "kitten", "dog")
    assert vocabulary.query_classes == (0, 0, 1, 1, 2)
    assert vocabulary.auxiliary_texts == (None, "feline", "canine")
    assert vocabulary.source_of(2) == f"{names}:3"
    assert vocabulary.auxiliary_source_of(2) == f"{aux}:1"
    assert vocabulary.auxiliary_source_of(0) is None
    assert load_vocabulary(names).auxiliary_texts == (None, None, None)


def test_vocabulary_from_lists_equals_files(tmp_path):
    names = write(tmp_path / "cls.txt", "wall, sky\ncat, kitten\ndog\n")
    aux = write(tmp_path / "aux.txt", "dog >= canine\ncat >= feline\n")
    lists = Vocabulary.from_lists(
        ["wall, sky", ["cat", "kitten"], ("dog",)], {"cat": "feline", "dog": "canine"}, True
    )
    assert lists == load_vocabulary(names, aux, background=True)
    assert hash(lists) == hash(load_vocabulary(names, aux, background=True))
    assert lists.source_of(1) == "class_names[1]"
    assert lists.auxiliary_source_of(1) == "auxiliary_texts['cat']"


@pytest.mark.parametrize(
    ("class_names", "texts", "words"),
    [
        ("cat", None, "list with one entry per class"),
        ({"cat": 1}, None, "list with one entry per class"),
        ([], None, "no class"),
        ([[]], None, r"class_names\[0\].*empty"),
        (["cat", ""], None, r"class_names\[1\].*empty"),
        (["cat", 3], None, r"class_names\[1\]"),
        ([["cat", None]], None, r"class_names\[0\]"),
        ([["cat, kitten"]], None, "comma"),
        (["cat\nkitten"], None, r"U\+000A"),
        (["cat", "Cat"], None, r"class_names\[1\].*class_names\[0\]"),
        (["cat"], ["feline"], "dict"),
        (["cat"], {"cat": 3}, r"auxiliary_texts\['cat'\]"),
        (["cat"], {"cat": " "}, r"auxiliary_texts\['cat'\].*missing"),
        (["cat"], {"cat": "a", "CAT": "b"}, "already given"),
        (["cat"], {}, "'cat' has no text"),
    ],
)
def test_bad_lists(class_names, texts, words):
    with pytest.raises(InputError, match=words):
        Vocabulary.from_lists(class_names, texts)


# ---- fuzzing -----------------------------------------------------------------------------------

WORDS = st.from_regex(r"[A-Za-z0-9äßøé'.&-]{1,8}( [A-Za-z0-9äßøé'.&-]{1,8}){0,2}", fullmatch=True)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def groups(draw):
    names = draw(st.lists(WORDS, min_size=1, max_size=20, unique_by=normalise_name))
    cuts = draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    result = [[]]
    for name, cut in zip(names, cuts, strict=True):
        if cut and result[-1]:
            result.append([])
        result[-1].append(name)
    return tuple(map(tuple, result))


@settings(deadline=None)
@given(groups(), LINE_ENDS, st.booleans(), st.sampled_from([", ", ",", " ,  "]), st.data())
def test_round_trip(tmp_path_factory, class_names, end, bom, comma, data):
    folder = tmp_path_factory.mktemp("round_trip")
    start = "\ufeff" if bom else ""
    path = write(folder / "cls.txt", start + end.join(comma.join(n) for n in class_names) + end)
    assert load_class_names(path) == class_names

    order = data.draw(st.permutations(range(len(class_names))))
    lines = [f"{class_names[i][0]} >=text {i}" for i in order]
    aux = write(folder / "aux.txt", start + end.join(lines))
    vocabulary = load_vocabulary(path, aux)
    assert vocabulary.auxiliary_texts == tuple(f"text {i}" for i in range(len(class_names)))
    for i, line in enumerate(order):
        assert vocabulary.auxiliary_source_of(line) == f"{aux}:{i + 1}"
    assert vocabulary == Vocabulary.from_lists(
        class_names, {names[0]: f"text {i}" for i, names in enumerate(class_names)}
    )


RAW = st.one_of(
    st.binary(max_size=60),
    st.text(st.sampled_from("abA ,\n\r\t>=-_\ufeff\x00\u2028\u200b"), max_size=60).map(str.encode),
)


@settings(deadline=None, max_examples=300)
@given(RAW, RAW, st.booleans())
def test_no_input_raises_anything_but_an_input_error(tmp_path_factory, names, aux, background):
    folder = tmp_path_factory.mktemp("fuzz")
    name_path, aux_path = write(folder / "cls.txt", names), write(folder / "aux.txt", aux)
    try:
        vocabulary = load_vocabulary(name_path, aux_path, background)
    except InputError as error:
        message = str(error)
    else:
        assert all(name == name.strip() != "" for name in vocabulary.queries)
        assert len(vocabulary.queries) == len(vocabulary.query_classes)
        return
    assert "cls.txt" in message or "aux.txt" in message


# ---- what is shipped ---------------------------------------------------------------------------

# file → mmseg's data set, first class, classes, queries
CLASS_FILES = {
    "voc21": ("PascalVOCDataset", 0, 21, 80),
    "voc21_sclip": ("PascalVOCDataset", 0, 21, 56),
    "voc20": ("PascalVOCDataset", 1, 20, 30),
    "context60": ("PascalContextDataset", 0, 60, 75),
    "context60_sclip": ("PascalContextDataset", 0, 60, 60),
    "context59": ("PascalContextDataset59", 0, 59, 59),
    "coco_object": ("COCOStuffDataset", -1, 81, 119),  # background and the 80 things
    "coco_object_sclip": ("COCOStuffDataset", -1, 81, 113),
    "coco_stuff": ("COCOStuffDataset", 0, 171, 183),
    "coco_stuff_sclip": ("COCOStuffDataset", 0, 171, 171),
    "cityscapes": ("CityscapesDataset", 0, 19, 26),
    "cityscapes_sclip": ("CityscapesDataset", 0, 19, 19),
    "ade20k": ("ADE20KDataset", 0, 150, 150),
}
# names per class where there are several; 0 is the background's word list
GROUP_SIZES = {
    "voc21": {0: 44, "bird": 2, "cat": 2, "chair": 2, "motorbike": 2, "person": 9, "tv": 5},
    "voc21_sclip": {0: 26, "person": 7, "tv": 5},
    "voc20": {"person": 7, "tv": 5},
    "context60": {"cat": 2, "chair": 2, "motorbike": 2, "person": 9, "tv": 5},
    "coco_object": {0: 26, "person": 9, "tv": 6},
    "coco_object_sclip": {0: 26, "person": 8},
    "coco_stuff": {"person": 8, "tv": 6},
    "cityscapes": {"person": 8},
}
# names that a file words otherwise than mmseg's data set, spaces aside
RENAMED = {
    "voc": {"boat": "ship", "diningtable": "table", "tvmonitor": "television monitor"},
}
GLUED = ("cityscapes", "coco_stuff", "ade20k")  # these files write several words as one
HAS_BACKGROUND = ("voc21", "voc21_sclip", "context60", "context60_sclip", "coco_object")
HAS_BACKGROUND += ("coco_object_sclip",)


def shipped(name):
    return load_class_names(PROJECT / f"configs/cls_{name}.txt", name in HAS_BACKGROUND)


@pytest.mark.parametrize("name", CLASS_FILES)
def test_shipped_counts(name):
    _, _, classes, queries = CLASS_FILES[name]
    names = shipped(name)
    assert len(names) == classes
    assert sum(map(len, names)) == queries
    sizes = GROUP_SIZES.get(name, {})
    several = {n[0] if i or len(n) < 10 else 0: len(n) for i, n in enumerate(names) if len(n) > 1}
    several = {
        "tv" if key in ("television monitor", "tvmonitor", "tv") else key: n
        for key, n in several.items()
    }
    assert several == sizes


@pytest.mark.parametrize("name", CLASS_FILES)
def test_shipped_order_is_the_data_sets(name):
    import mmseg.datasets

    dataset, first, classes, _ = CLASS_FILES[name]
    expected = [n.strip() for n in getattr(mmseg.datasets, dataset).METAINFO["classes"]]
    expected = ["background", *expected[:80]] if first == -1 else expected[first:]
    renamed = RENAMED.get(name, RENAMED["voc"] if name.startswith("voc") else {})
    expected = [renamed.get(n, n) for n in expected]
    if name.startswith(GLUED):
        expected = [n.replace(" ", "") for n in expected]
    actual = [n[0] for n in shipped(name)]
    assert len(actual) == len(expected) == classes
    if name in HAS_BACKGROUND and len(shipped(name)[0]) > 1:
        actual, expected = actual[1:], expected[1:]
    assert actual == expected


def test_glued_words_differ_from_the_data_sets_as_published():
    import mmseg.datasets as data

    for name, dataset, count in (
        ("cityscapes_sclip", data.CityscapesDataset, 2),
        ("coco_stuff_sclip", data.COCOStuffDataset, 15),
        ("ade20k", data.ADE20KDataset, 16),  # one of them only a trailing space
    ):
        pairs = zip(shipped(name), dataset.METAINFO["classes"], strict=True)
        assert sum(names[0] != other for names, other in pairs) == count


PERSON = "person, person in shirt, person in jeans, person in dress, person in sweater, "
PERSON += "person in skirt, person in jacket"
TV = "tvmonitor, television monitor, monitor, television, screen"
# The words of the authors' own class files, line counted from 0, wherever they differ from those of
# SCLIP and NACLIP; VOC21's background besides.
PUBLISHED_WORDS = {
    "voc21": {
        3: "bird, avian",
        8: "cat, feline",
        9: "chair, seat",
        14: "motorbike, motorcycle",
        15: f"{PERSON}, person in hat, body",
        20: "television monitor, tv monitor, monitor, television, screen",
    },
    "context60": {
        15: "cat, feline",
        17: "chair, seat",
        34: "motorbike, motorcycle",
        37: f"{PERSON}, person in hat, body",
        55: TV,
    },
    "coco_object": {1: f"{PERSON}, body, person in hat", 63: f"tv, {TV}"},
    "coco_stuff": {0: f"{PERSON}, person in hat", 62: f"tv, {TV}"},
    "cityscapes": {11: f"{PERSON}, person in hat"},
}
VOC21_BACKGROUND = (
    "sky, wall, tree, wood, grass, road, mountain, sands, desk, bed, building, lamp, door, window, "
    "wardrobe, ceiling, shelf, curtain, stair, floor, fence, ground, water, railway, helmet, "
    "house, bridge, sign, keyboard, refrigerator, bench, sink, laptop, clock, blanket, branch, "
    "bush, cabinet, clouds, cupboard, pavement, platform, roof, sea"
)


@pytest.mark.parametrize("name", PUBLISHED_WORDS)
def test_itaclips_words_are_its_authors(name):
    lines = (PROJECT / f"configs/cls_{name}.txt").read_text(encoding="utf-8").splitlines()
    rivals = (PROJECT / f"configs/cls_{name}_sclip.txt").read_text(encoding="utf-8").splitlines()
    different = {
        i: line for i, (line, r) in enumerate(zip(lines, rivals, strict=True)) if line != r
    }
    if name == "voc21":
        assert different.pop(0) == VOC21_BACKGROUND
    assert {**different, **PUBLISHED_WORDS[name]} == PUBLISHED_WORDS[name]
    assert {i: lines[i] for i in PUBLISHED_WORDS[name]} == PUBLISHED_WORDS[name]


def test_background_words_are_shared_by_the_published_files():
    words = shipped("voc21_sclip")[0]
    assert shipped("coco_object")[0] == shipped("coco_object_sclip")[0] == words
    assert shipped("context60")[0] == shipped("context60_sclip")[0] == ("background",)
    assert shipped("voc21_sclip")[1:] == shipped("voc20")


# every auxiliary file serves the class files of its benchmark
AUXILIARY = {
    "voc21": ("voc21", "voc21_sclip"),
    "voc20": ("voc20",),
    "context60": ("context60", "context60_sclip"),
    "context59": ("context59",),
    "coco_object": ("coco_object", "coco_object_sclip"),
    "coco_stuff": ("coco_stuff", "coco_stuff_sclip"),
    "cityscapes": ("cityscapes", "cityscapes_sclip"),
    "ade20k": ("ade20k",),
}
AUXILIARY_CASES = [
    (benchmark, kind, names)
    for benchmark, files in AUXILIARY.items()
    for kind in ("definitions", "synonyms")
    for names in files
]


@pytest.mark.parametrize(("benchmark", "kind", "names"), AUXILIARY_CASES)
def test_shipped_auxiliary_texts(benchmark, kind, names):
    path = PROJECT / f"aux_texts/{benchmark}_{kind}.txt"
    background = names in HAS_BACKGROUND
    vocabulary = load_vocabulary(PROJECT / f"configs/cls_{names}.txt", path, background)
    texts = vocabulary.auxiliary_texts
    assert (texts[0] is None) == background
    assert None not in texts[1:]
    given_texts = [text for text in texts if text is not None]
    assert len(set(given_texts)) == len(given_texts)
    owner = {
        normalise_name(n).replace(" ", ""): i
        for i, group in enumerate(vocabulary.class_names)
        if not (background and i == 0)
        for n in group
    }
    for i, text in enumerate(texts):
        if text is None:
            continue
        assert not text.endswith(".")
        assert text.isascii()
        words = text.lower().split()
        assert words[0] not in ("a", "an", "the")
        if kind == "definitions":
            assert 6 <= len(words) <= 20
            assert text[0] not in "aeio"  # it follows "a photo of a"
        else:
            assert len(words) <= 3
            assert owner.get(text.lower().replace(" ", ""), i) == i, f"{text} names another class"


@pytest.mark.parametrize("benchmark", AUXILIARY)
def test_shipped_texts_are_keyed_by_first_names(benchmark):
    names = shipped(AUXILIARY[benchmark][-1])  # SCLIP's file where there are two
    first = 1 if AUXILIARY[benchmark][-1] in HAS_BACKGROUND else 0
    for kind in ("definitions", "synonyms"):
        path = PROJECT / f"aux_texts/{benchmark}_{kind}.txt"
        keys = list(parse_auxiliary_texts(path.read_text().splitlines(), str(path)))
        assert keys == [group[0] for group in names[first:]]


def test_shipped_texts_fit_clip():
    from itaclip.clip_model.tokenizers import openai_tokenizer
    from itaclip.text_encoder import imagenet_templates

    paths = [*PROJECT.glob("aux_texts/*_definitions.txt"), *PROJECT.glob("aux_texts/*_syn*.txt")]
    assert len(paths) >= 16
    entries = [parse_auxiliary_texts(path.read_text().splitlines(), str(path)) for path in paths]
    texts = {text for file in entries for text, _ in file.values()}
    texts |= {n for name in CLASS_FILES for group in shipped(name) for n in group}
    longest = max(imagenet_templates(), key=lambda t: len(openai_tokenizer()(t)))
    assert max(len(openai_tokenizer()(longest.format(text))) for text in texts) <= 77
