"""Captions for Storybook scenes, worded as people word them: loosely, and seldom completely."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .scenes import Scene
from .textures import STUFF

SYNONYMS: dict[str, tuple[str, ...]] = {
    "sky": ("sky", "sky", "heaven", "skies"),
    "sea": ("sea", "sea", "ocean", "water", "waves"),
    "grass": ("grass", "grass", "lawn", "meadow", "grassland"),
    "sand": ("sand", "sand", "beach", "desert", "sandy beach"),
    "brick wall": ("brick wall", "brick wall", "wall of bricks", "wall", "bricks"),
    "road": ("road", "road", "street", "asphalt", "highway"),
    "snow": ("snow", "snow", "snowfield", "white snow", "snowdrift"),
    "wooden floor": ("wooden floor", "wooden floor", "floor", "floorboards", "parquet"),
    "sun": ("sun", "sun", "sunshine"),
    "cloud": ("cloud", "cloud", "cumulus cloud"),
    "tree": ("tree", "tree", "fir tree", "leafy tree"),
    "house": ("house", "house", "home", "cottage", "building"),
    "car": ("car", "car", "automobile", "vehicle", "motorcar"),
    "boat": ("boat", "boat", "sailboat", "ship", "sailing boat"),
    "fish": ("fish", "fish", "goldfish", "swimming fish"),
    "flower": ("flower", "flower", "blossom", "bloom"),
    "balloon": ("balloon", "balloon", "air balloon", "party balloon"),
    "mushroom": ("mushroom", "mushroom", "toadstool", "fungus"),
    "umbrella": ("umbrella", "umbrella", "parasol", "brolly"),
    "cat": ("cat", "cat", "kitten", "kitty"),
}
"""Words for each class; the class's own name comes twice, as the commonest word."""

DEFINITIONS: dict[str, tuple[str, ...]] = {
    "sky": ("the air high above the earth", "the blue space above us"),
    "sea": ("a large area of salt water", "deep blue water with waves"),
    "grass": ("green blades growing close to the ground", "a green plant that covers the ground"),
    "sand": ("fine yellow grains on a beach", "loose grains of tiny stones"),
    "brick wall": ("red bricks laid in rows with mortar", "a wall built of red clay blocks"),
    "road": ("a gray hard surface for vehicles", "a paved way with painted lines"),
    "snow": ("soft white frozen flakes on the ground", "frozen white water covering the land"),
    "wooden floor": ("brown boards that people walk on", "long planks of wood laid side by side"),
    "sun": ("the bright star that gives us light", "a round yellow light with rays"),
    "cloud": ("a white fluffy mass of water drops in the air", "a soft gray puff that brings rain"),
    "tree": ("a tall plant with a trunk and leaves", "a big plant with a wooden trunk"),
    "house": ("a building with a roof where people live", "a home with a door and windows"),
    "car": ("a vehicle with four wheels and an engine", "a machine on wheels for driving"),
    "boat": ("a small ship with a sail", "a vessel with a hull and a mast"),
    "fish": ("an animal with fins that swims", "a swimming animal with a tail and scales"),
    "flower": ("the colourful petals of a plant", "a plant with petals on a stem"),
    "balloon": ("a round rubber bag filled with air", "a light ball on a string"),
    "mushroom": ("a fungus with a cap and a stem", "a spotted cap on a short stem"),
    "umbrella": ("a folding cover that keeps off the rain", "a cloth dome on a stick against rain"),
    "cat": ("a furry pet with whiskers and pointed ears", "a small animal that says meow"),
}
"""Definitions used in some captions, so that the text tower knows what defining words mean."""

PLURALS = {
    "fish": "fish",
    "kitty": "kitties",
    "party balloon": "party balloons",
    "fungus": "fungi",
    "sunshine": "sunshine",
    "toadstool": "toadstools",
}
NUMBERS = {2: ("two ", "a pair of ", "", "some "), 3: ("three ", "", "some ")}
FRAMES = (
    "{}",
    "{}",
    "a picture of {}",
    "a storybook page with {}",
    "there is {}",
    "look, {}!",
    "this is {}",
    "a page showing {}",
    "a drawing with {}",
    "a photo with {}",
    "{} in a children's book",
    "we see {}",
    "an illustration of {}",
)
PLACES = {
    "sky": ("in the {}", "under the {}", "against the {}"),
    "sea": ("by the {}", "in the {}"),
    "brick wall": ("in front of the {}", "by a {}"),
}
ANYWHERE = ("on the {}", "and the {}", "with {}", "on {}")


@dataclass(frozen=True)
class Caption:
    """A text and the classes that it names (each is visible in the picture)."""

    text: str
    named: frozenset[str]


def choose_named(
    scene: Scene, rng: random.Random, stuff_rate: float = 0.4, least_share: float = 0.012
) -> list[str]:
    """Classes to be named: nearly all the things, the stuff behind them only now and then.

    Args:
        scene: only its shares are read.
        rng: source of chance.
        stuff_rate: how often a picture with things has its stuff named at all.
        least_share: smaller things than this share of the picture are never named.
    """
    visible = [name for name, share in scene.shares.items() if share >= least_share]
    things = [name for name in visible if name not in STUFF]
    stuff = [name for name in visible if name in STUFF and scene.shares[name] >= 0.08]
    if len(things) > 1:
        things = [name for name in things if rng.random() < 0.9] or things[:1]
    if things and rng.random() >= stuff_rate:
        stuff = []
    elif len(stuff) > 1:
        stuff = [name for name in stuff if rng.random() < 0.75] or stuff[:1]
    named = things + stuff
    if not named:
        named = visible[:1]
    rng.shuffle(named)
    return sorted(named, key=lambda name: name in STUFF)  # things first, in random order


def word(name: str, scene: Scene, rng: random.Random, article: bool = True) -> str:
    """A noun phrase for a class: a synonym, with its colour, number or article at times."""
    noun = rng.choice(SYNONYMS[name])
    if name in STUFF:
        return noun if rng.random() < 0.6 else f"the {noun}"
    colour = scene.colours.get(name)
    count = scene.counts.get(name, 1)
    adjective = f"{colour} " if colour and count == 1 and rng.random() < 0.3 else ""
    if count > 1 and name != "sun":
        plural = PLURALS.get(noun, f"{noun}s")
        return rng.choice(NUMBERS.get(count, NUMBERS[3])) + plural
    phrase = adjective + noun
    if not article or rng.random() < 0.15:
        return phrase
    if name == "sun":
        return f"the {phrase}"
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def write_caption(
    scene: Scene,
    rng: random.Random,
    templates: Sequence[str] = (),
    template_rate: float = 0.6,
    definition_rate: float = 0.12,
    stuff_rate: float = 0.4,
) -> Caption:
    """A caption for a scene.

    Args:
        scene: only its shares, colours and counts are read, never image or mask.
        rng: source of chance.
        templates: prompts with one `{}`, e.g. CLIP's 80 for ImageNet; used for captions that
            name one class.
        template_rate: how often such captions take a template.
        definition_rate: how often a class is described by its definition instead of its name.
        stuff_rate: see `choose_named`.
    """
    named = choose_named(scene, rng, stuff_rate)
    if len(named) == 1:
        name = named[0]
        if rng.random() < definition_rate:
            phrase = rng.choice(DEFINITIONS[name])
            frame = rng.choice(templates if templates and rng.random() < template_rate else FRAMES)
            return Caption(frame.format(phrase), frozenset(named))
        if templates and rng.random() < template_rate:
            phrase = word(name, scene, rng, article=False)
            return Caption(rng.choice(templates).format(phrase), frozenset(named))
    phrases, places = [], []
    for name in named:
        if rng.random() < definition_rate / 2:
            phrases.append(rng.choice(DEFINITIONS[name]))
        elif name in STUFF and len(named) > 1 and phrases and rng.random() < 0.6:
            noun = rng.choice(SYNONYMS[name])
            places.append(rng.choice(PLACES.get(name, ANYWHERE)).format(noun))
        else:
            phrases.append(word(name, scene, rng))
    joined = phrases[0]
    if len(phrases) > 1:
        joined = ", ".join(phrases[:-1]) + rng.choice((" and ", ", ", " with ")) + phrases[-1]
    text = " ".join([rng.choice(FRAMES).format(joined), *places])
    return Caption(text, frozenset(named))
