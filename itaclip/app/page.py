"""The page's layout and callbacks; whatever they compute lies in the other modules.

Nothing on the page comes from elsewhere: Gradio's analytics, web fonts and sharing are off.
"""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from ..checks import is_integer, number
from ..errors import InputError
from ..runtime.files import one_line
from ..runtime.pictures import save_picture
from . import fragments
from .examples import Example
from .gate import Gate
from .turns import GoneError
from .visitors import MOST, Visitors
from .workbench import Choices, Visit, Workbench, heat_over, open_image, result_of, scores_of

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_DAY, _HOUR = 86400, 3600  # seconds
_THREADS = 2 * MOST  # a visitor who waits for a turn at the model takes one
_QUEUE = 2 * MOST
CLASSES, UNCERTAINTY = "Classes", "Uncertainty"


def launch_options(page: "Page", host: str, names: Sequence[str] = ()) -> dict[str, Any]:
    """For ``Blocks.launch()``: looks, the gate, and all that would reach beyond the server off.

    Args:
        page: the page.
        host: the address that is listened at.
        names: further names that the page is served under.
    """
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
    limits = dict(max_file_size="64mb", state_session_capacity=2 * MOST, max_threads=_THREADS)
    gate = Middleware(
        Gate,
        host=host,
        names=names,
        visitors=page.visitors,
        functions=lambda: len(page.blocks.fns),
        uploads=Path(gr.utils.get_upload_folder()),
    )
    looks = dict(theme=theme, css=CSS, footer_links=[], quiet=True)
    return dict(server_name=host, app_kwargs={"middleware": [gate]}, **looks, **limits, **off)


class _Blocks(gr.Blocks):
    """Gradio's, whose requests end in a sentence also where a value is of another kind."""

    async def preprocess_data(self, block_fn: Any, inputs: list, *args: Any, **kwargs: Any) -> list:
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:  # whatever Gradio raises at a value, the request is to blame
            message = f"{block_fn.api_name}: the request cannot be read ({one_line(error)})."
            raise gr.Error(message, print_exception=False) from error


def _explained(callback: Callable[..., dict]) -> Callable[..., dict]:
    """Turns bad input into a sentence on the page, on which all else stays."""

    @wraps(callback)
    def answered(self: "Page", *args: Any) -> dict:
        try:
            return {self.notice: "", **callback(self, *args)}
        except InputError as error:
            return {self.notice: fragments.notice(str(error))}
        except GoneError:
            return {self.notice: ""}

    return answered


class Page:
    """The page and its callbacks, which return the components that change.

    Args:
        workbench: the model.
        examples: images to choose from.
        about: a line on the model.

    Attributes:
        blocks: what Gradio launches.
        visitors: who is there.
    """

    def __init__(self, workbench: Workbench, examples: Sequence[Example], about: str) -> None:
        self.workbench, self.examples = workbench, examples
        self.visitors = Visitors()
        # Visitors' files are removed after a day.
        with _Blocks(
            title="ITACLIP", analytics_enabled=False, delete_cache=(_HOUR, _DAY)
        ) as self.blocks:
            gr.HTML(fragments.heading("ITACLIP", about), elem_id="heading")
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._left()
                with gr.Column(scale=3, min_width=320):
                    self._right()
            self._wire()
        self.blocks.queue(max_size=_QUEUE)

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
        """One component for every field of :class:`Choices`, in their order."""
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
            gr.Slider(
                0,
                1,
                start.margin_thd,
                step=0.01,
                label="Margin",
                info="So do pixels whose two best classes are closer than this.",
            ),
            gr.Checkbox(
                start.regions,
                label="Regions",
                info="One label for every superpixel, by a vote; sharper edges without PAMR.",
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
        with gr.Row():
            self.opacity = gr.Slider(
                0, 100, 60, step=1, label="Opacity in percent", elem_id="opacity"
            )
            self.shown = gr.Radio(
                [CLASSES, UNCERTAINTY],
                value=CLASSES,
                label="Over the image",
                info="Uncertainty is bright where the two best classes are close.",
                elem_id="shown",
            )
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
        shown = [self.view, self.status, self.legend, *pixel]
        shown += [self.mask_file, self.overlay_file, self.notice]
        quiet = dict(show_progress="hidden")
        # The workbench says whose turn it is at the model.
        model = dict(concurrency_limit=None)
        questions = [self.classes, self.background, self.opacity, self.shown, *self.settings]
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
        gr.on(
            [self.opacity.change, self.shown.change],
            self.on_opacity,
            [self.opacity, self.shown],
            [self.view, self.overlay_file, self.notice],
            trigger_mode="always_last",
            **quiet,
        )
        self.view.select(
            self.on_click, None, [*pixel, self.notice], show_progress_on=pixel, **model
        )
        self.blocks.unload(self.on_leave)

    # ---- callbacks ------------------------------------------------------------------------------

    @_explained
    def on_upload(self, file: str | None, request: gr.Request = None) -> dict:
        """Opens an uploaded file; the place to drop files is free again, whatever comes of it."""
        try:
            if file is None:
                raise InputError("There is no file: drop one, or choose one.")
            return self._show(open_image(file, Path(file).name), request) | {self.upload: None}
        except InputError as error:
            return {self.notice: fragments.notice(str(error)), self.upload: None}

    @_explained
    def on_example(self, index: int | None, request: gr.Request = None) -> dict:
        """Shows an example and its words."""
        if not is_integer(index, 0, len(self.examples) - 1):
            raise InputError(f"Example: expected 0 to {len(self.examples) - 1}, but got {index!r}.")
        example = self.examples[index]
        words = {self.classes: example.classes, self.background: example.background}
        return self._show(Visit(example.name, example.image), request) | words

    def _show(self, visit: Visit, request: gr.Request | None) -> dict:
        """A new image, without a result."""
        self.visitors.keep(_session(request), visit)
        no_file = gr.update(value=None, interactive=False)
        return {
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
        classes: str,
        background: str,
        opacity: float,
        shown: str,
        recipe: str,
        stride: str,
        views: bool,
        refined: bool,
        logit_scale: float,
        prob_thd: float,
        margin_thd: float,
        regions: bool,
        request: gr.Request = None,
        progress: gr.Progress = gr.Progress(track_tqdm=True),  # noqa: B008  Gradio's way
    ) -> dict:
        """Segments and shows overlay, legend and files."""
        session = _session(request)
        before = self.visitors.visit(session)
        choices = Choices(
            recipe, stride, views, refined, logit_scale, prob_thd, margin_thd, regions
        )
        visit = self.workbench.segment(
            before, classes, background, choices, self._listening(session)
        )
        if not self.visitors.keep(session, visit, instead_of=before):
            return {}  # there is another image meanwhile
        result = visit.result
        mask = result.save_mask(_fresh_folder() / f"{visit.name}_mask.png")
        return {
            **self._blended(visit, opacity, shown),
            self.status: fragments.note(visit.describe()),
            self.legend: fragments.legend(result.classes, result.palette, result.areas()),
            self.scores: fragments.note("Click a pixel for its scores and its attention."),
            self.attention: gr.update(value=None, visible=False),
            self.mask_file: gr.update(value=mask, interactive=True),
        }

    @_explained
    def on_opacity(self, opacity: float, shown: str, request: gr.Request = None) -> dict:
        """Blends the result anew."""
        visit = self.visitors.visit(_session(request))
        if visit is None or visit.result is None:
            return {}
        return self._blended(visit, opacity, shown)

    def _blended(self, visit: Visit, opacity: float, shown: str) -> dict:
        """The classes' colours, or the uncertainty, over the image; opacity in percent."""
        opacity = number(opacity, "Opacity", high=100) / 100
        if shown == UNCERTAINTY:
            scores_of(visit)
            overlay = heat_over(visit.image, visit.result.uncertainty, opacity)
        elif shown == CLASSES:
            overlay = visit.result.overlay(opacity)
        else:
            raise InputError(f"Over the image: expected {CLASSES} or {UNCERTAINTY}.")
        path = save_picture(_fresh_folder() / f"{visit.name}_overlay.png", overlay)
        return {
            self.view: path if visit.zoom == 1 else visit.shown(overlay),
            self.overlay_file: gr.update(value=path, interactive=True),
        }

    @_explained
    def on_click(self, event: gr.EventData, request: gr.Request = None) -> dict:
        """Shows a pixel's scores and attention."""
        session = _session(request)
        visit = self.visitors.visit(session)
        result, scores = result_of(visit), scores_of(visit)
        # Not SelectData, which raises at a request without a pixel.
        place = (getattr(event, "_data", None) or {}).get("index")
        if not (isinstance(place, list) and len(place) == 2 and all(map(is_integer, place))):
            raise InputError("Pixel: expected its place as [column, row].")
        if min(place) < 0:
            raise InputError("Pixel: it lies outside the image.")
        pixel = visit.pixel_at(*place)
        bars = fragments.score_bars(
            pixel, result.labels[pixel], result.classes, result.palette, scores[pixel]
        )
        heat = visit.shown(self.workbench.attention(visit, pixel, self._listening(session)))
        return {self.scores: bars, self.attention: gr.update(value=heat, visible=True)}

    def on_leave(self, request: gr.Request) -> None:
        """Forgets a visitor who closed the page."""
        self.visitors.leave(_session(request))

    def _listening(self, session: str | None) -> Callable[[], bool]:
        """Whether the visitor still waits for the request that is answered now."""
        return partial(self.visitors.listening, session, time.monotonic())


def _session(request: gr.Request | None) -> str | None:
    return None if request is None else request.session_hash


def _fresh_folder() -> Path:
    """A folder where Gradio keeps its files, so that none is copied and all are removed in time."""
    root = Path(gr.utils.get_upload_folder())
    root.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(dir=root))
