"""Text features, their cache, and the limits of CLIP's context."""

import multiprocessing
from pathlib import Path

import pytest
import reference
import torch
from mmseg.utils.tokenizer import tokenize

from itaclip import InputError, Vocabulary
from itaclip.runtime.text_cache import TextCache
from itaclip.text_encoder import TextEncoder, imagenet_templates

NAMES = ["cat", "traffic light", "Café", "the, house", "tv monitor 42", "x"]


@pytest.fixture(scope="module")
def encoder(tiny_clip):
    return TextEncoder(tiny_clip)


def test_prompts_equal_the_stock_tower(encoder, tiny_clip):
    prompts = [f"a photo of a {name}." for name in NAMES] + ["", "word " * 70]
    tokens = torch.as_tensor(tokenize(prompts)).long()
    with torch.no_grad():
        expected = tiny_clip.encode_text(tokens)
    torch.testing.assert_close(encoder.encode(prompts), expected, atol=1e-5, rtol=0)


def test_tokens_equal_mmseg_tokenizer(encoder):
    for prompt in [*NAMES, "Don't  stop &amp; go", "naïve — “quotes”", "日本 🙂"]:
        own = encoder.tokenize(prompt)
        assert own == torch.as_tensor(tokenize(prompt))[0][: len(own)].tolist()


def test_eighty_templates():
    templates = imagenet_templates()
    assert len(templates) == 80
    assert all(template.count("{}") == 1 for template in templates)


def test_features_equal_the_formula(encoder, tiny_clip):
    names = [["sky", "wall"], ["cat", "kitten"], ["dog"]]
    aux = {"cat": "small furry animal with whiskers", "dog": "loyal pet"}
    vocabulary = Vocabulary.from_lists(names, aux, background=True)
    found = encoder.vocabulary_features(vocabulary, 0.15, imagenet_templates())
    with torch.no_grad():
        expected, _ = reference.blended_text(tiny_clip, names, [None, *aux.values()], 0.15)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found[0].norm() == pytest.approx(1, abs=1e-5)
    assert found[2].norm() < 1  # the blend is not renormalised


def test_a_text_over_the_context_is_named(encoder, tmp_path):
    long = "very " * 74 + "long"
    vocabulary = Vocabulary.from_lists(["cat", "dog"], {"cat": "an animal", "dog": long})
    with pytest.raises(InputError, match=r"auxiliary_texts.*'dog'.*tokens.*77; shorten"):
        encoder.vocabulary_features(vocabulary, 0.1, imagenet_templates())
    from itaclip.vocabulary import load_vocabulary

    path = tmp_path / "names.txt"
    path.write_text(f"cat\n{long}\n")
    with pytest.raises(InputError, match=r"names\.txt:2.*77"):
        encoder.vocabulary_features(load_vocabulary(path), 0.1, imagenet_templates())
    with pytest.raises(InputError, match="77"):
        encoder.encode([long + " and longer"])


def test_a_text_of_exactly_77_tokens_is_taken(encoder):
    templates = ["a {}."]
    fitting = " ".join(["cat"] * 73)  # start, a, 73, full stop, end
    assert len(encoder.tokenize(templates[0].format(fitting))) == 77
    encoder.vocabulary_features(Vocabulary.from_lists([fitting]), 0, templates)
    with pytest.raises(InputError, match="78 tokens"):
        encoder.vocabulary_features(Vocabulary.from_lists([fitting + " cat"]), 0, templates)


# ---- cache --------------------------------------------------------------------------------------


def features_with(encoder, cache, texts=("cat", "dog"), templates=("a {}.", "the {}.")):
    return encoder.template_features(list(texts), list(templates), cache)


def test_a_later_start_reads_and_does_not_encode(encoder, tmp_path, monkeypatch):
    cache = TextCache(tmp_path)
    first = features_with(encoder, cache)
    monkeypatch.setattr(encoder, "encode", lambda *a: pytest.fail("encoded again"))
    assert torch.equal(features_with(encoder, cache), first)
    assert cache.size()[0] == 1


def test_every_ingredient_is_part_of_the_key(encoder, tmp_path):
    key = TextCache(tmp_path).key
    base = key(1, "w", ["a {}"], ["cat"])
    others = [
        key(2, "w", ["a {}"], ["cat"]),
        key(1, "v", ["a {}"], ["cat"]),
        key(1, "w", ["b {}"], ["cat"]),
        key(1, "w", ["a {}"], ["cat", "dog"]),
        key(1, "w", ["a {}"], ["cat, dog"]),
    ]
    assert len({base, *others}) == 6


def test_other_weights_are_other_entries(encoder, tmp_path):
    from conftest import random_clip

    cache = TextCache(tmp_path)
    features_with(encoder, cache)
    features_with(TextEncoder(random_clip(seed=9, layers=1, width=64)), cache)
    assert cache.size()[0] == 2


@pytest.mark.parametrize("damage", [b"", b"garbage" * 100])
def test_a_damaged_entry_is_named_and_made_anew(damage, encoder, tmp_path, capsys):
    cache = TextCache(tmp_path)
    first = features_with(encoder, cache)
    (entry,) = cache.folder.glob("*.safetensors")
    entry.write_bytes(damage)
    assert torch.equal(features_with(encoder, cache), first)
    assert "damaged" in capsys.readouterr().err
    assert entry.stat().st_size > len(damage[:1])


def test_an_unwritable_folder_is_said_and_survived(encoder, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    first = features_with(encoder, TextCache(blocked))
    assert "not kept" in capsys.readouterr().err
    assert torch.equal(first, features_with(encoder, None))


def test_the_folder_stays_bounded_and_can_be_cleared(encoder, tmp_path):
    cache = TextCache(tmp_path, max_bytes=1000)
    for index in range(5):
        features_with(encoder, cache, [f"name {index}", "cat"])
    assert 0 < cache.size()[1] <= 1000
    assert cache.clear() > 0
    assert cache.size() == (0, 0)


def _store(folder, seed):
    cache = TextCache(Path(folder))
    for _ in range(20):
        cache.store("k" * 64, torch.full((2, 3), float(seed)))


def test_two_processes_at_once_leave_whole_entries(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_store, args=(tmp_path, seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = TextCache(tmp_path).load("k" * 64, (2, 3))
    assert found is not None
    assert len(found.unique()) == 1
    assert not list(tmp_path.rglob("*.part"))


def test_the_templates_are_those_that_mmseg_ships():
    from mmseg.utils import get_predefined_templates

    assert list(imagenet_templates()) == get_predefined_templates("imagenet")
