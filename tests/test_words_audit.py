"""The audit of a vocabulary: figures against their definitions, texts, pages and files."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import itaclip
from itaclip.commands import main
from itaclip.errors import InputError
from itaclip.postprocess import class_scores
from itaclip.predict.audit import WordList, audit, html_page, tables
from itaclip.predict.audit.tallies import Tally
from itaclip.vocabulary import Vocabulary

OWNERS = (0, 0, 1, 2)


@pytest.fixture(scope="module")
def model():
    return itaclip.load("storybook-tiny", pamr=None, crop_size=None, text_cache=False)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for index in range(2):
        paths.append(tmp_path / "photos" / f"{index}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        noise = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(noise.repeat(16, 0).repeat(16, 1)).save(paths[-1])
    return paths


def words(*names, background=False, **keys):
    return WordList("mine", Vocabulary.from_lists(list(names), background=background), **keys)


def test_a_tally_counts_what_it_says():
    torch.manual_seed(0)
    logits = torch.randn(7, 11, 4)
    tally = Tally(OWNERS, logit_scale=2)
    labels = tally.add(logits, np.zeros((70, 110, 3), np.uint8), "a.png")
    scores = class_scores(logits.clone(), OWNERS, 2)
    assert torch.equal(labels, scores.argmax(-1))
    assert tally.areas.tolist() == [int((labels == c).sum()) for c in range(3)]
    assert tally.wins.tolist() == [int((logits.argmax(-1) == q).sum()) for q in range(4)]
    best = scores.sort(-1, descending=True)[0]
    for c in range(3):
        margin = (best[..., 0] - best[..., 1])[labels == c]
        assert float(tally.margins[c]) == pytest.approx(float(margin.sum()), abs=1e-4)
    near = (best[..., 0] - best[..., 1]) < 0.1
    assert int(tally.unsure.sum()) == int(near.sum()) and tally.unsure.diagonal().eq(0).all()
    for query in range(4):  # without a word, as if it had never been there
        left = logits.clone()
        left[..., query] = -torch.inf
        then = torch.tensor(OWNERS)[left.argmax(-1)]
        moved = {c: int(((then == c) & (labels != c)).sum()) for c in range(3)}
        own = tally.without[query].tolist()
        own[OWNERS[query]] = 0
        assert own == [moved[c] for c in range(3)]


def test_an_audit_names_what_never_wins_and_what_is_too_long(model, pictures):
    long = " ".join(["cat"] * 80)
    found = audit(model, pictures, words(["sky", "zzz qqq"], ["sea", long], "boat"))
    assert found.pictures == 2
    assert [entry["name"] for entry in found.too_long] == [long]
    assert [row["name"] for row in found.names] == ["sky", "zzz qqq", "sea", "boat"]
    assert sum(row["wins"] for row in found.names) == pytest.approx(1)
    assert sum(row["area"] for row in found.classes) == pytest.approx(1)
    never = {row["name"] for row in found.names if row["wins"] == 0 and row["class"] == "sky"}
    assert {*found.never} == never
    features = model.segmentor.variant(vocabulary=words("sky", "sea").vocabulary).text_features
    cosine = float(torch.nn.functional.cosine_similarity(features[0], features[1], dim=0))
    pair = next(p for p in found.similar if {p["name"], p["other"]} == {"sky", "sea"})
    assert pair["cosine"] == pytest.approx(cosine, abs=1e-3)


def test_lists_are_compared_and_scored(model, pictures, tmp_path):
    base = words("sky", "sea", "boat")
    masks = {}
    for path in pictures:
        labels = model.segment(path, "sky; sea; boat").labels.astype(np.uint8)
        labels[:5] = 255
        masks[str(path)] = tmp_path / f"{path.stem}_mask.png"
        Image.fromarray(labels).save(masks[str(path)])
    other = WordList("turned", Vocabulary.from_lists(["boat", "sea", "sky"]))
    found = audit(model, pictures, base, [other], masks)
    mine, turned = found.lists
    assert mine["changed"] == 0 and mine["miou"] == 100
    swapped = 1 - next(r["area"] for r in found.classes if r["class"] == "sea")
    assert turned["changed"] == pytest.approx(swapped)
    assert turned["per_class"]["boat"] in (0, None)
    with pytest.raises(InputError, match="expected words for 3 classes like mine, but it has 2"):
        audit(model, pictures, base, [words("sky", "sea")])
    Image.fromarray(np.full((64, 80), 7, np.uint8)).save(masks[str(pictures[0])])
    with pytest.raises(InputError, match="holds the value 7, but there are 3 classes"):
        audit(model, pictures, base, [], masks)


def test_the_page_holds_its_pictures_and_escapes_names(model, pictures):
    found = audit(model, pictures, words("<b>sky</b>", "sea"))
    page = html_page(found, "Words & pictures")
    assert "<b>sky</b>" not in page and "&lt;b&gt;sky&lt;/b&gt;" in page
    assert "http" not in page and len(re.findall("data:image/jpeg;base64,", page)) >= 2
    assert "<b>sky</b>" in tables(found)


def test_the_command_writes_page_and_json(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["words", "photos", "--model", "storybook-tiny", "--classes", "sea; boat, ship"]
    main([*arguments, "--background", "@generic", "--out", "audit"])
    out = capsys.readouterr().out
    assert "plain names" in out and out.rstrip().endswith("words.html")
    content = json.loads((tmp_path / "audit" / "words.json").read_text())
    assert content["pictures"] == 2
    assert [row["list"] for row in content["lists"]] == ["as given", "plain names"]
    assert content["classes"][0]["class"] == "background"
    with pytest.raises(InputError, match=r"--masks: .* does not exist \(2 of 2 pictures"):
        main([*arguments, "--masks", "photos2"])
