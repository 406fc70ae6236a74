# LPOSS's networks: MaskCLIP's tokens of LAION's CLIP, spread by the patches of a second backbone.
_base_ = "sclip_protocol.py"
model = dict(
    clip_model="hf:laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    attention="maskclip_original",
    guide="dino-vitb16",
    propagation="lposs",
)
