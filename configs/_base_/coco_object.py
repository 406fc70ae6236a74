# COCO-Object: the 80 things of COCO-Stuff 164k and background, 5000 images.
_base_ = ["loading.py"]
test_dataloader = dict(
    dataset=dict(
        type="COCOObject164kDataset",
        data_root="data/coco_stuff164k",
        data_prefix=dict(
            img_path="images/val2017",
            seg_map_path="annotations/val2017",
        ),
    ),
)
