# Pascal Context with background: 5104 images, 60 classes.
_base_ = ["loading.py"]
test_dataloader = dict(
    dataset=dict(
        type="PascalContextDataset",
        data_root="data/VOCdevkit/VOC2010",
        data_prefix=dict(
            img_path="JPEGImages",
            seg_map_path="SegmentationClassContext",
        ),
        ann_file="ImageSets/SegmentationContext/val.txt",
    ),
)
