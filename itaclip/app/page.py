"""The page's layout and callbacks; whatever they compute lies in the other modules.

Nothing on the page comes from elsewhere: Gradio's analytics, web fonts and sharing are off.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from ..errors import InputError
from ..visualization import save_picture
from . import fragments
from .examples import Example
from .workbench import Settings, Visit, Workbench, open_image, result_of

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_DAY, _HOUR = 86400, 3600  # seconds


def launch_options() -> dict[str, Any]:
    """For ``Blocks.launch()``: looks, and everything that would reach beyond the server off."""
    theme = gr.themes.Default(
        primary_hue="teal",
        font=["system-ui", "sans-serif"],  # the visitor's own
        font_mono=["ui-monospace", "monospace"],
    )
    off = dict.fromkeys(
        ("share", "ssr_mode", "pwa", "mcp_server", "enable_monitoring", "run_history"), False
    )
    return dict(theme=theme, css=CSS, footer_links=[], quiet=True, **off)


def _explained(callback: Callable[..., dict]) -> Callable[..., dict]:
    """Turns bad input into a sentence on the page, on which all else stays."""

    @wraps(callback)
    def answered(self: "Page", *args: Any) -> dict:
        try:
            return {self.notice: "", **callback(self, *args)}
        except InputError as error:
            return {self.notice: fragments.notice(str(error))}

    return answered


class Page:
    """The page and its callbacks, which return the components that change.

    Args:
        workbench: the model.
        examples: images to choose from.
        about: a line on the model.

    Attributes:
        blocks: what Gradio launches.
    """

    def __init__(self, workbench: Workbench, examples: Sequence[Example], about: str) -> None:
        self.workbench, self.examples = workbench, examples
        # Visitors' files and states are removed after a day.
        with gr.Blocks(
            title="ITACLIP", analytics_enabled=False, delete_cache=(_HOUR, _DAY)
        ) as self.blocks:
            self.visit = gr.State(None, time_to_live=_DAY)
            gr.HTML(fragments.heading("ITACLIP", about), elem_id="heading")
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._left()
                with gr.Column(scale=3, min_width=320):
                    self._right()
            self._wire()

    def _left(self) -> None:
        self.upload = gr.File(label="Image", height=120, elem_id="upload")
        self.gallery = gr.Dataset(
            label="Examples",
            components=["image"],
            samples=[[example.image] for example in self.examples],
            type="index",
            elem_id="examples",
        )
        classes, background = self.workbench.words
        self.classes = gr.Textbox(
            classes,
            label="Classes",
            info="Semicolons between classes, commas between names of one class.",
            placeholder="cat; sofa, couch; remote control",
            lines=2,
            max_lines=8,
            elem_id="classes",
        )
        self.background = gr.Textbox(
            background,
            label="Background words (optional)",
            info="What else is to be seen; without any, every pixel gets one of the classes.",
            placeholder="wall, floor, window",
            elem_id="background",
        )
        with gr.Accordion("Method", open=False, elem_id="method"):
            self.settings = self._choices()
        self.press = gr.Button("Segment", variant="primary", elem_id="segment")
        self.notice = gr.HTML(elem_id="notice")

    def _choices(self) -> list[gr.components.Component]:
        """One component for every field of :class:`Settings`, in their order."""
        bench, start = self.workbench, self.workbench.defaults
        return [
            gr.Dropdown(bench.recipes, value=start.recipe, label="Recipe", elem_id="recipe"),
            gr.Dropdown(
                list(bench.strides),
                value=start.stride,
                label="Stride of the windows",
                info="In pixels; half the stride takes four times as long.",
                elem_id="stride",
            ),
            gr.Checkbox(
                start.views,
                label="Image engineering",
                info="Every window also grey, blurred and flipped: five times as long.",
            ),
            gr.Checkbox(
                start.refined, label="PAMR", info="Refinement along the edges of the image."
            ),
            gr.Slider(
                1, 100, start.logit_scale, step=1, label="Logit scale", info="Before the softmax."
            ),
            gr.Slider(
                0,
                1,
                start.prob_thd,
                step=0.01,
                label="Threshold",
                info="Pixels with a lower score become background, if there are words for it.",
            ),
        ]

    def _right(self) -> None:
        self.view = gr.Image(
            show_label=False,
            interactive=False,
            format="png",
            buttons=["fullscreen"],
            height=440,
            elem_id="view",
        )
        self.status = gr.HTML(elem_id="status")
        self.opacity = gr.Slider(
            0, 100, 60, step=1, label="Opacity", info="In percent.", elem_id="opacity"
        )
        self.legend = gr.HTML(elem_id="legend")
        with gr.Row():
            self.mask_file = gr.DownloadButton("Mask", interactive=False, elem_id="mask")
            self.overlay_file = gr.DownloadButton("Overlay", interactive=False, elem_id="overlay")
        with gr.Row():
            self.scores = gr.HTML(elem_id="scores")
            self.attention = gr.Image(
                label="Attention of the pixel",
                visible=False,
                interactive=False,
                format="png",
                buttons=["fullscreen"],
                elem_id="attention",
            )

    def _wire(self) -> None:
        pixel = [self.scores, self.attention]
        shown = [self.visit, self.view, self.status, self.legend, *pixel]
        shown += [self.mask_file, self.overlay_file, self.notice]
        quiet = dict(show_progress="hidden")
        # The model's work is queued: one visitor's at a time.
        model = dict(concurrency_limit=1, concurrency_id="model")
        self.upload.upload(
            self.on_upload, self.upload, [*shown, self.upload], show_progress_on=self.view
        )
        self.gallery.click(
            self.on_example, self.gallery, [*shown, self.classes, self.background], **quiet
        )
        questions = [self.visit, self.classes, self.background, self.opacity, *self.settings]
        gr.on(
            [self.press.click, self.classes.submit, self.background.submit],
            self.on_segment,
            questions,
            shown,
            show_progress_on=self.view,
            api_name="segment",
            **model,
        )
        self.opacity.change(
            self.on_opacity,
            [self.visit, self.opacity],
            [self.view, self.overlay_file, self.notice],
            trigger_mode="always_last",
            **quiet,
        )
        self.view.select(
            self.on_click, self.visit, [*pixel, self.notice], show_progress_on=pixel, **model
        )

    # ---- callbacks ------------------------------------------------------------------------------

    @_explained
    def on_upload(self, file: str) -> dict:
        """Opens an uploaded file; the place to drop files is free again, whatever comes of it."""
        try:
            return self._show(open_image(file, Path(file).name)) | {self.upload: None}
        except InputError as error:
            return {self.notice: fragments.notice(str(error)), self.upload: None}

    @_explained
    def on_example(self, index: int) -> dict:
        """Shows an example and its words."""
        example = self.examples[index]
        words = {self.classes: example.classes, self.background: example.background}
        return self._show(Visit(example.name, example.image)) | words

    def _show(self, visit: Visit) -> dict:
        """A new image, without a result."""
        no_file = gr.update(value=None, interactive=False)
        return {
            self.visit: visit,
            self.view: visit.image,
            self.status: fragments.note(visit.describe()),
            self.legend: "",
            self.scores: "",
            self.attention: gr.update(value=None, visible=False),
            self.mask_file: no_file,
            self.overlay_file: no_file,
        }

    @_explained
    def on_segment(
        self,
        visit: Visit | None,
        classes: str,
        background: str,
        opacity: float,
        recipe: str,
        stride: str,
        views: bool,
        refined: bool,
        logit_scale: float,
        prob_thd: float,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008  Gradio's way
    ) -> dict:
        """Segments and shows overlay, legend and files."""
        settings = Settings(recipe, stride, views, refined, logit_scale, prob_thd)
        visit = self.workbench.segment(visit, classes, background, settings)
        result = visit.result
        overlay = self._overlay(visit, opacity)
        mask = result.save_mask(_fresh_folder() / f"{visit.name}_mask.png")
        return {
            self.visit: visit,
            self.view: overlay,
            self.status: fragments.note(visit.describe()),
            self.legend: fragments.legend(result.classes, result.palette, result.areas()),
            self.scores: fragments.note("Click a pixel for its scores and its attention."),
            self.attention: gr.update(value=None, visible=False),
            self.mask_file: gr.update(value=mask, interactive=True),
            self.overlay_file: gr.update(value=overlay, interactive=True),
        }

    @_explained
    def on_opacity(self, visit: Visit | None, opacity: float) -> dict:
        """Blends the result anew."""
        if visit is None or visit.result is None:
            return {}
        overlay = self._overlay(visit, opacity)
        return {self.view: overlay, self.overlay_file: overlay}

    @_explained
    def on_click(self, visit: Visit | None, event: gr.SelectData) -> dict:
        """Shows a pixel's scores and attention."""
        result = result_of(visit)
        column, row = event.index
        bars = fragments.score_bars(
            (row, column),
            result.labels[row, column],
            result.classes,
            result.palette,
            result.scores[row, column],
        )
        heat = self.workbench.attention(visit, (row, column))
        return {self.scores: bars, self.attention: gr.update(value=heat, visible=True)}

    @staticmethod
    def _overlay(visit: Visit, opacity: float) -> Path:
        """Writes the overlay; opacity in percent."""
        path = _fresh_folder() / f"{visit.name}_overlay.png"
        return save_picture(path, visit.result.overlay(opacity / 100))


def _fresh_folder() -> Path:
    """A folder where Gradio keeps its files, so that none is copied and all are removed in time."""
    root = Path(gr.utils.get_upload_folder())
    root.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=root))
