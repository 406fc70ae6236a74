"""Models that are worth naming: what `itaclip models` lists.

Sizes are those of the files that are fetched (of fp32 weights: four bytes a parameter). What a row
says of itself is the layout and the arithmetic that tests hold against the libraries' own; no row
says that its real weights were run.
"""

from dataclasses import dataclass

OPENAI_LICENCE = "MIT"


@dataclass(frozen=True)
class Entry:
    """A row of the catalogue.

    Attributes:
        name: for ``clip_model``.
        size: of the download, in words.
        licence: of the weights.
        about: what it is, and what to know of it.
        blocks: of its image tower.
    """

    name: str
    size: str
    licence: str
    about: str
    blocks: int = 12


_DEEP = "recipes of CLIP alone lose much on its depth"
CATALOGUE = (
    Entry("ViT-B/16", "351 MB", OPENAI_LICENCE, "OpenAI's; the papers' model; QuickGELU"),
    Entry("ViT-B/32", "354 MB", OPENAI_LICENCE, "OpenAI's; coarser patches"),
    Entry("ViT-L/14", "933 MB", OPENAI_LICENCE, f"OpenAI's; {_DEEP}", 24),
    Entry("ViT-L/14@336px", "934 MB", OPENAI_LICENCE, f"OpenAI's; {_DEEP}", 24),
    Entry("storybook-tiny", "ships", "Apache-2.0", "knows drawn pictures alone; for trials"),
    Entry(
        "hf:openai/clip-vit-base-patch16",
        "599 MB",
        OPENAI_LICENCE,
        "OpenAI's ViT-B/16 in Hugging Face's layout: the same weights in fp32",
    ),
    Entry(
        "hf:laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
        "599 MB",
        "MIT",
        "LAION's; GELU",
    ),
    Entry(
        "hf:laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
        "599 MB",
        "MIT",
        "DataComp's; GELU",
    ),
    Entry(
        "hf:laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        "3.9 GB",
        "MIT",
        f"LAION's; GELU, heads of 80; used with a guide by ProxyCLIP and Trident; {_DEEP}",
        32,
    ),
    Entry(
        "hf:facebook/metaclip-b16-fullcc2.5b",
        "599 MB",
        "CC-BY-NC-4.0",
        "MetaCLIP's; QuickGELU; 2.3 mIoU over OpenAI's in CorrCLIP",
    ),
    Entry(
        "hf:apple/DFN2B-CLIP-ViT-B-16",
        "599 MB",
        "Apple's research licence",
        "DFN's; QuickGELU; open_clip's layout",
    ),
    Entry(
        "hf:google/siglip-base-patch16-224",
        "813 MB",
        "Apache-2.0",
        "no [CLS], read through its pooling head; tokenizer of its own",
    ),
    Entry(
        "hf:google/siglip2-base-patch16-224",
        "1.5 GB",
        "Apache-2.0",
        "as SigLIP; multilingual words",
    ),
    Entry(
        "hf:facebook/metaclip-2-worldwide-huge-quickgelu",
        "7.4 GB",
        "CC-BY-NC-4.0",
        f"multilingual words; {_DEEP}",
        32,
    ),
)
