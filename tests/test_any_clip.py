"""Models as `transformers` writes them: the same tokens, features and values as the library's own.

Widths, heads and depths are distinct, so that a swapped axis or a guessed head width fails.
"""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from reference import position_embedding

from itaclip import InputError
from itaclip.clip_model import load_clip
from itaclip.image_encoder import ImageEncoder
from itaclip.recipes import RECIPES, resolve_recipe
from itaclip.text_encoder import TextEncoder

transformers = pytest.importorskip("transformers")
WORDS = ["the", "a", "photo", "of", "cat", "dog", "sky", "green", "sea", "."]
PROMPTS = ["a photo of the cat.", "sky", "the green sea. a dog"]
TOLERANCE = dict(atol=1e-4, rtol=1e-4)


def randomised(model, seed=0):
    """Weights whose attention and norms are far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1 and "norm" in name and name.endswith("weight"):
                value.copy_(1 + 0.2 * torch.randn(value.shape, generator=generator))
            elif "logit" not in name:
                spread = 0.3 if value.ndim == 1 else 1.5 * value.shape[-1] ** -0.5
                value.copy_(spread * torch.randn(value.shape, generator=generator))
    return model.eval().requires_grad_(False)


def clip_model(activation="gelu", heads=6, **kind):
    vision = dict(hidden_size=96, intermediate_size=160, num_hidden_layers=3, patch_size=8,
                  num_attention_heads=heads, image_size=40, hidden_act=activation)  # fmt: skip
    text = dict(hidden_size=60, intermediate_size=100, num_hidden_layers=2, hidden_act=activation,
                num_attention_heads=5, projection_dim=20)  # fmt: skip
    config = transformers.CLIPConfig(
        vision_config=vision, text_config=text | kind, projection_dim=20
    )
    return randomised(transformers.CLIPModel(config))


def word_tokenizer(folder, **marks):
    """A tokenizer of a few words, as the library saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {w: i for i, w in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    own.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return fast


def siglip_model():
    common = dict(num_hidden_layers=3, hidden_size=72, num_attention_heads=6)
    vision = common | dict(intermediate_size=130, patch_size=8, image_size=40)
    text = common | dict(intermediate_size=110, vocab_size=len(WORDS) + 3, num_attention_heads=4,
                         max_position_embeddings=12)  # fmt: skip
    config = transformers.SiglipConfig(vision_config=vision, text_config=text)
    return randomised(transformers.SiglipModel(config))


def metaclip2_model():
    vision = dict(hidden_size=96, intermediate_size=160, num_hidden_layers=3, patch_size=8,
                  num_attention_heads=4, image_size=40)  # fmt: skip
    text = dict(hidden_size=60, intermediate_size=100, num_hidden_layers=2, num_attention_heads=5,
                vocab_size=len(WORDS) + 3, eos_token_id=1, max_position_embeddings=12)  # fmt: skip
    config = transformers.MetaClip2Config(
        vision_config=vision, text_config=text | dict(projection_dim=20), projection_dim=20
    )
    return randomised(transformers.MetaClip2Model(config))


FAMILIES = {
    "clip, QuickGELU": lambda: clip_model("quick_gelu"),
    "clip, GELU, heads of 16": clip_model,
    "clip, GELU-tanh, heads of 24": lambda: clip_model("gelu_pytorch_tanh", heads=4),
    "metaclip 2": metaclip2_model,
    "siglip": siglip_model,
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """The library's model, and ours of the folder that the library saved."""
    folder = tmp_path_factory.mktemp("model")
    theirs = FAMILIES[request.param]()
    theirs.save_pretrained(folder)
    if request.param in ("siglip", "metaclip 2"):
        word_tokenizer(folder)
    return theirs, load_clip(folder)


def encoder(ours, recipe="clip"):
    return ImageEncoder(ours.visual, resolve_recipe(recipe, 3))


def library_states(theirs, images):
    """Tokens that enter the last block, and those that leave it."""
    with torch.no_grad():
        out = theirs.vision_model(images, output_hidden_states=True)
    return out.hidden_states[-2], out.hidden_states[-1]


def test_the_recipe_clip_gives_the_librarys_tokens(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    tower = encoder(ours).tower(images)
    before, after = library_states(theirs, images)
    torch.testing.assert_close(tower.tokens, before, **TOLERANCE)
    torch.testing.assert_close(tower.final_tokens(), after, **TOLERANCE)


def test_the_whole_image_has_the_librarys_feature(pair):
    theirs, ours = pair
    images = torch.randn(2, 3, 40, 40, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs.get_image_features(pixel_values=images).pooler_output
        _, image = encoder(ours)(images)
        own = ours.encode_image(images)
    torch.testing.assert_close(image, expected, **TOLERANCE)
    torch.testing.assert_close(own, expected, **TOLERANCE)


def test_maskclip_is_out_proj_of_the_librarys_values(pair):
    theirs, ours = pair
    images = torch.randn(1, 3, 40, 40, generator=torch.Generator().manual_seed(3))
    before, _ = library_states(theirs, images)
    layer = theirs.vision_model.encoder.layers[-1]
    with torch.no_grad():
        values = layer.self_attn.v_proj(layer.layer_norm1(before))
        expected = layer.self_attn.out_proj(values)
        patches, _ = encoder(ours, "maskclip")(images)
        normed = theirs.vision_model.post_layernorm(expected)
        if hasattr(theirs, "visual_projection"):
            read = theirs.visual_projection(normed)[:, 1:]
        else:  # the values of the pooling head
            head = theirs.vision_model.head.attention
            width = normed.shape[-1]
            weight, bias = head.in_proj_weight[2 * width :], head.in_proj_bias[2 * width :]
            read = head.out_proj(F.linear(normed, weight, bias))
    tower = encoder(ours).tower(images)
    torch.testing.assert_close(tower.out(tower.last.v), expected, **TOLERANCE)
    torch.testing.assert_close(patches.flatten(1, 2), read, **TOLERANCE)


def test_odd_sizes_follow_the_published_position_rule(pair):
    """(n + 0.1) / side, as the published code resizes; pixels beyond whole patches are left out."""
    theirs, ours = pair
    images = torch.randn(1, 3, 27, 61, generator=torch.Generator().manual_seed(4))
    tokens = encoder(ours).embed(images, (3, 7))
    vision, prefix = theirs.vision_model.embeddings, int(ours.facts.has_cls)

    class Visual:  # what the reference reads
        positional_embedding = vision.position_embedding.weight
        if not prefix:  # a row that stands for [CLS], dropped again
            positional_embedding = torch.cat([positional_embedding[:1], positional_embedding])

    table = position_embedding(Visual, 3, 7)[1 - prefix :]
    with torch.no_grad():
        expected = vision.patch_embedding(images[..., :24, :56]).flatten(2).transpose(1, 2)
        if prefix:
            expected = torch.cat([vision.class_embedding.expand(1, 1, -1), expected], dim=1)
        expected = expected + table
        if prefix:
            expected = theirs.vision_model.pre_layrnorm(expected)
    torch.testing.assert_close(tokens, expected, **TOLERANCE)


def test_text_features_are_the_librarys(pair):
    theirs, ours = pair
    own = TextEncoder(ours)
    if ours.facts.tokenizer != "openai":
        tokenizer = transformers.AutoTokenizer.from_pretrained(ours.facts.tokenizer)
        ids = tokenizer(
            PROMPTS, padding="max_length", max_length=12, return_tensors="pt", truncation=True
        ).input_ids
    else:
        rows = [own.tokenize(prompt) for prompt in PROMPTS]
        ids = torch.zeros(len(rows), 77, dtype=torch.long)
        for row, numbers in zip(ids, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
    with torch.no_grad():
        expected = theirs.get_text_features(input_ids=ids).pooler_output
        again = ours.encode_text(ids)
    torch.testing.assert_close(own.encode(PROMPTS), expected, **TOLERANCE)
    torch.testing.assert_close(again, expected, **TOLERANCE)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_runs_on_a_tower_without_cls_or_says_why_not(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    siglip_model().save_pretrained(folder)
    ours = load_clip(folder)
    given = {"recipe": recipe}
    kinds = type(RECIPES[recipe]).__dataclass_fields__
    for name, field in kinds.items():
        if field.metadata.get("kind") in ("block", "blocks") and getattr(RECIPES[recipe], name):
            given[name] = 1 if field.metadata["kind"] == "block" else (1, 2)
    if "channels" in kinds:
        given["channels"] = (3, 5)
    resolved = resolve_recipe(given, 3)
    if getattr(resolved, "needs_guide", False):
        pytest.skip("needs a guide")
    if resolved.needs_cls:
        with pytest.raises(InputError, match=r"\[CLS\]"):
            ImageEncoder(ours.visual, resolved)
        return
    images = torch.randn(1, 3, 40, 40)
    text = F.normalize(torch.randn(4, 72), dim=-1)
    patches, image = ImageEncoder(ours.visual, resolved)(images, text)
    assert patches.shape == (1, 5, 5, 72) and image.shape == (1, 72)
    assert torch.isfinite(patches).all()


# ---- files and descriptions ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    clip_model().save_pretrained(folder)
    return folder


def copied(saved, tmp_path, **config):
    folder = shutil.copytree(saved, tmp_path / "model")
    if config:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        for key, value in config.items():
            tower, _, name = key.partition("__")
            (content[f"{tower}_config"] if name else content)[name or key] = value
        path.write_text(json.dumps(content))
    return folder


def same_state(model, other):
    own, theirs = model.state_dict(), other.state_dict()
    assert own.keys() == theirs.keys()
    for key, value in own.items():
        assert torch.equal(value, theirs[key]), key


def test_shards_and_pickles_hold_the_same_weights(saved, tmp_path):
    model = clip_model()
    expected = load_clip(saved)
    model.save_pretrained(tmp_path / "shards", max_shard_size="4MB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    same_state(load_clip(tmp_path / "shards"), expected)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(saved / "config.json", pickled)
    state = {f"{k}": v for k, v in model.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(26)[None]
    torch.save(state, pickled / "pytorch_model.bin")
    same_state(load_clip(pickled), expected)


def test_a_file_alone_is_read_with_its_description(saved):
    path = saved / "model.safetensors"
    with pytest.raises(InputError, match=r"missing activation, vision_heads, text_heads; config"):
        load_clip(path)
    with pytest.raises(InputError, match=r"missing text_heads"):
        load_clip(path, dict(activation="gelu", vision_heads=6))
    told = dict(activation="gelu", vision_heads=6, text_heads=5, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = load_clip(path, told)
    same_state(model, load_clip(saved))
    assert model.facts.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dict(vision__hidden_size=192), "vision_width is 192, but the weights have 96"),
        (dict(vision__num_hidden_layers=5), "vision_layers is 5, but the weights have 3"),
        (dict(vision__patch_size=4), "patch_size is 4, but the weights have 8"),
        (dict(vision__num_attention_heads=7), "vision_heads is 7.*96 wide"),
        (dict(text__vocab_size=5), "vocabulary_size is 5"),
        (dict(vision__hidden_act="swish"), "hidden_act is 'swish'"),
        (dict(vision__hidden_act=None), "hidden_act is None"),
        (dict(vision__image_size="224"), "image_size: expected an integer"),
        (dict(projection_dim=21), "embed_dim is 21, but the weights have 20"),
        (dict(model_type="siglip2"), "NaFlex"),
        (dict(model_type="chinese_clip"), "BERT"),
        (dict(model_type="bert"), "the type 'bert'"),
        (dict(model_type="siglip"), "the weights are of 'clip'"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(config, words, saved, tmp_path):
    folder = copied(saved, tmp_path, **config)
    with pytest.raises(InputError, match=words) as caught:
        load_clip(folder)
    assert "\n" not in str(caught.value)


def test_clip_config_may_not_contradict_a_described_model(saved):
    assert load_clip(saved, dict(activation="gelu")).facts.activation == "gelu"
    with pytest.raises(InputError, match=r"clip_config\.activation: is 'quick_gelu'"):
        load_clip(saved, dict(activation="quick_gelu"))


def test_mean_and_deviation_come_from_the_folder(saved, tmp_path):
    folder = copied(saved, tmp_path)
    content = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    facts = load_clip(folder).facts
    assert (facts.mean, facts.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_damaged_folders_are_one_sentence(saved, tmp_path):
    folder = copied(saved, tmp_path)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: cannot be read as JSON"):
        load_clip(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="describes its model"):
        load_clip(folder)
    shutil.copy(saved / "config.json", folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="expected a folder with weights"):
        load_clip(folder)


def test_a_tokenizer_of_its_own_is_used_or_asked_for(tmp_path):
    """As MetaCLIP 2 has: a text tower of CLIP's kind with another vocabulary."""
    model = clip_model(vocab_size=len(WORDS) + 3, eos_token_id=1, bos_token_id=0, pad_token_id=0)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="tokenizer"):
        TextEncoder(load_clip(tmp_path))
    tokenizer = word_tokenizer(tmp_path)
    ours = TextEncoder(load_clip(tmp_path))
    ids = tokenizer(PROMPTS, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.get_text_features(input_ids=ids).pooler_output
    torch.testing.assert_close(ours.encode(PROMPTS), expected, **TOLERANCE)


# ---- the whole way ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    siglip_model().save_pretrained(folder)
    word_tokenizer(folder)
    return folder


def test_a_picture_is_segmented_by_siglip(siglip_folder):
    """Normalised by its own mean, in windows of its own size, with its own words."""
    import itaclip

    settings = dict(recipe="maskclip", short_side=48, pamr=None, image_engineering_weight=None)
    model = itaclip.load(siglip_folder, stride=20, text_cache=False, **settings)
    picture = torch.randint(0, 256, (48, 60, 3), dtype=torch.uint8).numpy()
    result = model.segment(picture, ["sky", "the sea", "cat"])
    assert result.labels.shape == (48, 60)
    preprocessor = model.segmentor.data_preprocessor
    assert preprocessor.mean.flatten().tolist() == [127.5] * 3
    assert preprocessor.std.flatten().tolist() == [127.5] * 3
    assert model.segmentor.settings.test_cfg.crop_size == (40, 40)
    with pytest.raises(InputError, match="characters that this model's tokenizer does not know"):
        model.segment(picture, ["sky", "zeppelin"])
    with pytest.raises(InputError, match=r"has \d+ tokens"):
        model.segment(picture, ["sky", "the green sea " * 5])
    with pytest.raises(InputError, match=r"\[CLS\]"):
        itaclip.load(
            siglip_folder,
            text_cache=False,
            **settings
            | {
                "recipe": dict(
                    recipe="scclip", similarity_layer=1, early_layer=1, second_pass_layers=()
                )
            },
        )


def test_windows_of_siglip_may_be_stitched(siglip_folder):
    from itaclip import ITACLIPSegmentor, Vocabulary

    model = ITACLIPSegmentor(
        str(siglip_folder),
        vocabulary=Vocabulary.from_lists([["sky"], ["sea"]]),
        attention="naclip",
        text_cache=False,
        test_cfg=dict(mode="slide", crop_size=(40, 40), stride=(24, 24), merge="stitch"),
    )
    logits = model.query_logits(torch.randn(3, 64, 64))
    assert logits.shape == (64, 64, 2)
    assert torch.isfinite(logits).all()


def test_the_models_colours_are_those_of_the_preprocessor_unless_others_are_given(saved, tmp_path):
    from itaclip.data_preprocessor import MEAN, STD, CLIPDataPreprocessor

    folder = copied(saved, tmp_path)
    content = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    facts = load_clip(folder).facts
    follows, given = CLIPDataPreprocessor(), CLIPDataPreprocessor(mean=MEAN, std=STD)
    follows.follow(facts)
    given.follow(facts)
    expected = 255 * torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(follows.mean.flatten(), expected)
    assert given.mean.flatten().tolist() == torch.tensor(MEAN).tolist()
    follows.follow(load_clip(saved).facts)  # CLIP's own, rounded as in the published configs
    assert follows.std.flatten().tolist() == torch.tensor(STD).tolist()


def test_a_deep_tower_says_so(tmp_path, caplog):
    from conftest import random_clip

    from itaclip import ITACLIPSegmentor, Vocabulary
    from itaclip.clip_model import save_clip

    folder = save_clip(random_clip(layers=24, width=64, text_layers=1), tmp_path / "deep")
    words = Vocabulary.from_lists([["sky"], ["sea"]])
    with caplog.at_level("WARNING"):
        ITACLIPSegmentor(str(folder), vocabulary=words, attention="naclip", text_cache=False)
    assert "24 blocks" in caplog.text


def test_the_same_weights_from_another_library_are_openais(tmp_path, monkeypatch):
    """Against OpenAI's own file, if it is there; with another description they are not."""
    from conftest import random_clip

    from itaclip.clip_model import load as loading
    from itaclip.clip_model import openai_twin, save_clip
    from itaclip.runtime.files import sha256_of

    model = random_clip(layers=1, width=64, text_layers=1)
    original, copy = tmp_path / "tiny.pt", tmp_path / "copy.pt"
    torch.save({k: v.half() for k, v in model.state_dict().items()}, original)
    torch.save({k: v.half().float() for k, v in model.state_dict().items()}, copy)
    known = dict(activation="quick_gelu", text_activation="quick_gelu")
    known |= dict(vision_heads=1, text_heads=1)
    monkeypatch.setattr(loading, "OPENAI_MODELS", {"tiny": (sha256_of(original), "tiny.pt")})
    monkeypatch.setattr(loading, "_KNOWN", {"tiny": known})
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path / "nowhere")
    assert openai_twin(copy, known) is None
    monkeypatch.setattr(loading, "cache_folder", lambda: tmp_path)
    told = {k: v for k, v in known.items() if k != "text_activation"}
    assert openai_twin(copy, told) == "tiny"
    assert openai_twin(copy, told | dict(activation="gelu")) is None
    assert openai_twin(save_clip(load_clip(copy, told), tmp_path / "folder")) == "tiny"
    other = {k: v + 0.01 for k, v in model.state_dict().items()}
    torch.save(other, copy)
    assert openai_twin(copy, told) is None
