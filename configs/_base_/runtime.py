# What every evaluation shares: hooks, metric, processes. No device, no absolute path.
custom_imports = dict(imports=["itaclip"])
default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    # timeout: seconds that processes wait for one another at most; eval.py exchanges over gloo
    dist_cfg=dict(backend="nccl", timeout=1800),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10, log_metric_by_epoch=False),
    visualization=dict(type="SegVisualizationHook", interval=1),  # for mmseg's test tool
)
custom_hooks = [dict(type="TrimMemoryHook")]
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=False, window_size=10)
log_level = "INFO"
load_from = None
resume = False

test_cfg = dict(type="TestLoop")
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
tta_model = dict(type="SegTTAModel")  # of mmseg's test tool, see docs/mmseg.md
