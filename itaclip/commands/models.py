"""``itaclip models``: lists the CLIP models that can be named."""

import argparse
import textwrap

from ..clip_model.catalogue import CATALOGUE
from ..clip_model.sources import OPENAI_MODELS, cache_folder

_EXAMPLES = """examples:
  itaclip models
  itaclip segment photo.jpg --classes "sky; sea" --model hf:google/siglip2-base-patch16-224"""
_NOTE = """Licences are those that the repositories state. Also: any repository
hf:OWNER/NAME[@REVISION] of the same kinds, a folder in the layout of Hugging Face (config.json) or
open_clip (open_clip_config.json), and a file of weights, which needs
clip_config=dict(activation=…, vision_heads=…, text_heads=…) unless it is OpenAI's.
Behind a firewall: ITACLIP_MIRROR for OpenAI's files, HF_ENDPOINT for the Hub, HF_HUB_OFFLINE=1 for
what is in its cache; or copy the file to %s.
Refused by name: EVA-CLIP, PE-Core, MobileCLIP, ConvNeXt and ResNet towers, CoCa, CLIPA, SigLIP 2
NaFlex, text towers that are a BERT. See docs/backbones.md."""


def add_to(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "models",
        help="lists the CLIP models that can be named",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    for entry in CATALOGUE:
        print(entry.name + (" (is here)" if _is_here(entry.name) else ""))
        about = f"{entry.size}, {entry.blocks} blocks, licence {entry.licence}. {entry.about}."
        print(textwrap.fill(about, 98, initial_indent="    ", subsequent_indent="    "))
    print("\n" + _NOTE % cache_folder())


def _is_here(name: str) -> bool:
    return name in OPENAI_MODELS and (cache_folder() / OPENAI_MODELS[name][1]).is_file()
