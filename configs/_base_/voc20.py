# Pascal VOC 2012 without background (label 0 is ignored): 1449 images, 20 classes.
_base_ = ["loading.py"]
test_dataloader = dict(
    dataset=dict(
        type="VOC20Dataset",
        data_root="data/VOCdevkit/VOC2012",
        data_prefix=dict(
            img_path="JPEGImages",
            seg_map_path="SegmentationClass",
        ),
        ann_file="ImageSets/Segmentation/val.txt",
    ),
)
