# Pascal VOC 2012 with background: 1449 images, 21 classes.
_base_ = ["loading.py"]
test_dataloader = dict(
    dataset=dict(
        type="PascalVOCDataset",
        data_root="data/VOCdevkit/VOC2012",
        data_prefix=dict(
            img_path="JPEGImages",
            seg_map_path="SegmentationClass",
        ),
        ann_file="ImageSets/Segmentation/val.txt",
    ),
)
