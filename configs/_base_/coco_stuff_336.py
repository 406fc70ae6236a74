# COCO-Stuff 164k with the short side of the SCLIP family: 5000 images, 171 classes.
_base_ = ["loading.py"]
test_dataloader = dict(
    dataset=dict(
        type="COCOStuffDataset",
        data_root="data/coco_stuff164k",
        data_prefix=dict(
            img_path="images/val2017",
            seg_map_path="annotations/val2017",
        ),
    ),
)
