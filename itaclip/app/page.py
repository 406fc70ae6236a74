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
from ..runtime.pictures import save_picture
from . import fragments
from .examples import Example
from .workbench import Settings, Visit, Workbench, open_image, result_of

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_DAY, _HOUR = 86400, 3600  # seconds
_VISITORS = 32  # whose images and results are kept; the one who was idle longest goes first


def launch_options() -> dict[str, Any]:
    """For ``Blocks.launch()``: looks, and everything that would reach beyond the server off."""
    theme = gr.themes.Default(
        primary_hue="teal",
        font=["system-ui", "sans-serif"],  # the visitor's own
        font_mono=["ui-monospace", "monospace"],
    ).set(  # Gradio's own are too pale to be read with ease
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
    )
    off = dict.fromkeys(
        ("share", "ssr_mode", "pwa", "mcp_server", "enable_monitoring", "run_history"), False
    )
    limits = dict(max_file_size="64mb", state_session_capacity=_VISITORS)
    return dict(theme=theme, css=CSS, footer_links=[], quiet=True, **limits, **off)


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
        self.upload = gr.File(label="Your image", height=130, elem_id="upload")
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
        self.press = gr.Button("Segment", variant="primary", elem_id="segment")
        self.notice = gr.HTML(elem_id="notice")
        with gr.Accordion("Method", open=False, elem_id="method"):
            self.settings = self._choices()

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
                min(1, start.logit_scale),
                max(100, start.logit_scale),
                start.logit_scale,
                label="Logit scale",
                info="Before the softmax.",
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
            alt_text="The image, with the classes' colours over it",
            elem_id="view",
        )
        self.status = gr.HTML(elem_id="status")
        self.legend = gr.HTML(elem_id="legend")
        self.opacity = gr.Slider(0, 100, 60, step=1, label="Opacity in percent", elem_id="opacity")
        with gr.Row():
            self.scores = gr.HTML(min_width=260, elem_id="scores")
            self.attention = gr.Image(
                label="Attention of the pixel",
                alt_text="Heat map of the attention of the pixel that was clicked",
                visible=False,
                interactive=False,
                format="png",
                buttons=["fullscreen"],
                min_width=260,
                elem_id="attention",
            )
        with gr.Row():
            self.mask_file = gr.DownloadButton(
                "Download mask", size="sm", interactive=False, elem_id="mask"
            )
            self.overlay_file = gr.DownloadButton(
                "Download overlay", size="sm", interactive=False, elem_id="overlay"
            )

    def _wire(self) -> None:
        pixel = [self.scores, self.attention]
        shown = [self.visit, self.view, self.status, self.legend, *pixel]
        shown += [self.mask_file, self.overlay_file, self.notice]
        quiet = dict(show_progress="hidden")
        # The model's work is queued: one visitor's at a time.
        model = dict(concurrency_limit=1, concurrency_id="model")
        questions = [self.visit, self.classes, self.background, self.opacity, *self.settings]
        pressed = gr.on(
            [self.press.click, self.classes.submit, self.background.submit],
            self.on_segment,
            questions,
            shown,
            show_progress_on=self.view,
            api_name="segment",
            **model,
        )
        # What still runs for an earlier image is not shown over the new one.
        self.upload.upload(
            self.on_upload,
            self.upload,
            [*shown, self.upload],
            show_progress_on=self.view,
            cancels=pressed,
        )
        self.gallery.click(
            self.on_example,
            self.gallery,
            [*shown, self.classes, self.background],
            cancels=pressed,
            **quiet,
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
            self.view: visit.shown(visit.image),
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
        mask = result.save_mask(_fresh_folder() / f"{visit.name}_mask.png")
        return {
            **self._blended(visit, opacity),
            self.visit: visit,
            self.status: fragments.note(visit.describe()),
            self.legend: fragments.legend(result.classes, result.palette, result.areas()),
            self.scores: fragments.note("Click a pixel for its scores and its attention."),
            self.attention: gr.update(value=None, visible=False),
            self.mask_file: gr.update(value=mask, interactive=True),
        }

    @_explained
    def on_opacity(self, visit: Visit | None, opacity: float) -> dict:
        """Blends the result anew."""
        if visit is None or visit.result is None:
            return {}
        return self._blended(visit, opacity)

    def _blended(self, visit: Visit, opacity: float) -> dict:
        """The overlay; opacity in percent."""
        overlay = visit.result.overlay(opacity / 100)
        path = save_picture(_fresh_folder() / f"{visit.name}_overlay.png", overlay)
        return {
            self.view: path if visit.zoom == 1 else visit.shown(overlay),
            self.overlay_file: gr.update(value=path, interactive=True),
        }

    @_explained
    def on_click(self, visit: Visit | None, event: gr.SelectData) -> dict:
        """Shows a pixel's scores and attention."""
        result = result_of(visit)
        pixel = visit.pixel_at(*event.index)
        bars = fragments.score_bars(
            pixel, result.labels[pixel], result.classes, result.palette, result.scores[pixel]
        )
        heat = visit.shown(self.workbench.attention(visit, pixel))
        return {self.scores: bars, self.attention: gr.update(value=heat, visible=True)}


def _fresh_folder() -> Path:
    """A folder where Gradio keeps its files, so that none is copied and all are removed in time."""
    root = Path(gr.utils.get_upload_folder())
    root.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=root))
