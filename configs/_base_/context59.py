# Pascal Context without background (label 0 is ignored): 5104 images, 59 classes.
_base_ = ["loading.py"]
test_dataloader = dict(
    dataset=dict(
        type="PascalContextDataset59",
        data_root="data/VOCdevkit/VOC2010",
        data_prefix=dict(
            img_path="JPEGImages",
            seg_map_path="SegmentationClassContext",
        ),
        ann_file="ImageSets/SegmentationContext/val.txt",
    ),
)
