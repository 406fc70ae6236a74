# Storybook: drawn scenes, made at first use; 200 images in the test split.
_base_ = ["loading.py"]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [  # the picture and its mirror image
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
test_dataloader = dict(
    dataset=dict(
        type="StorybookDataset",
        data_root="data/storybook",
        split="test",
        pipeline=test_pipeline,
    ),
)
