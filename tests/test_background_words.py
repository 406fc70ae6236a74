"""Lists of background words by name, in class-name files, lists and the API."""

import pytest

from itaclip.background_words import LISTS, background_words
from itaclip.errors import InputError
from itaclip.predict.words import make_vocabulary
from itaclip.vocabulary import Vocabulary, load_vocabulary, normalise_name


@pytest.mark.parametrize("name", LISTS)
def test_every_list_makes_a_background(name):
    words = background_words(name, "here")
    assert len(words) == len({normalise_name(word) for word in words})
    assert Vocabulary.from_lists([list(words), "xylophone"], background=True).num_classes == 2


def test_lists_have_the_published_lengths():
    lengths = {name: len(background_words(name, "here")) for name in LISTS}
    assert lengths["voc21"] == lengths["coco_object"] == 26
    assert lengths["itaclip"] == 44 and lengths["generic"] == 64
    assert background_words("plain", "here") == ("background",)


def test_a_class_file_names_its_list(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("@generic\nboat, ship\nSea\n")
    vocabulary = load_vocabulary(path, background=True)
    assert vocabulary.num_classes == 3 and vocabulary.first_names[1:] == ("boat", "Sea")
    assert {*LISTS["generic"]} - {*vocabulary.class_names[0]} == {"sea"}  # a class is no background
    with pytest.raises(InputError, match=r"names.txt:1: .* only class 0 takes"):
        load_vocabulary(path)


@pytest.mark.parametrize("background", ["@voc21", "plain", ["@voc21"]])
def test_the_api_takes_the_name_of_a_list(background):
    vocabulary = make_vocabulary("boat; sea", background)
    words = background_words("plain" if background == "plain" else "voc21", "", {"sea"})
    assert vocabulary.class_names[0] == words and vocabulary.background


def test_true_is_the_surroundings():
    assert make_vocabulary("cat", True) == make_vocabulary("cat", "@surroundings")


def test_a_class_may_be_called_plain():
    assert make_vocabulary("plain; hill").first_names == ("plain", "hill")


def test_an_unknown_list_is_named():
    with pytest.raises(InputError, match=r"background: expected @voc21, .* but got '@voc'"):
        make_vocabulary("cat", "@voc")
    with pytest.raises(InputError, match="every word of 'plain' is a class"):
        background_words("plain", "here", {"background"})
