"""From studies to settings: every cell's config, checked, and which of them share what.

All models are built before the first picture is segmented, so that a row that cannot run is named
at once. They share one set of weights.
"""

import copy
import dataclasses
import hashlib
import inspect
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS, METRICS, MODELS
from torch import nn

from ...clip_model import load_clip
from ...errors import InputError
from ...mmseg_segmentor import ITACLIPSegmentor
from ...recipes import Recipe
from ...runtime.config import building, check_model_keys
from ...runtime.torch_state import default_device
from ..command import check_data
from ..hooks import CheckClassesHook
from ..identity import code_sha256
from ..inputs import data_manifest, file_entry, precision_entry, weights_entry
from ..settings import plain
from .studies import Changes, Setting, Study

PARTS = ("model", "test_dataloader", "test_evaluator")
# Keys of the model that matter only after its features: rows that differ there share these.
_AFTER_FEATURES = {
    "name_path",
    "background",
    "auxiliary_text_path",
    "aux_text_weight",
    "image_engineering_weight",  # the names of its views count instead
    "logit_scale",
    "prob_thd",
    "margin_thd",
    "area_thd",
    "label_closing",
    "pamr",
    "return_scores",
}
_TEXTS = ("name_path", "background", "auxiliary_text_path", "aux_text_weight")
_DEFAULT_CLIP = inspect.signature(ITACLIPSegmentor).parameters["clip_model"].default
_NO_EFFECT = {"text_cache", "pretrained", "train_cfg", "init_cfg", "vocabulary"}


@dataclass(frozen=True)
class Row:
    """One setting, whichever cells ask for it.

    Attributes:
        key: checksum of the setting.
        settings: ``model``, ``test_dataloader`` and ``test_evaluator``.
        model: built from them; on the device.
        metric: where the config's test_evaluator counts areas.
        dataset_key: rows with the same one see the same pictures.
        tower_key: rows with the same one also share all blocks of the image encoder but the last.
        feature_key: rows with the same one also share its features.
        inputs: checksums of what the setting names: weights, texts, data, code; precision used.
    """

    key: str
    settings: dict[str, Any]
    model: nn.Module
    metric: IoUMetric
    dataset_key: str
    tower_key: str
    feature_key: str
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell of a study's table; ``changes`` are resolved to plain values."""

    study: str
    row: str
    column: str
    changes: dict[str, Any]
    key: str


@dataclass
class Plan:
    """What is to be evaluated.

    Attributes:
        config_path: the config.
        studies: those that can run, by name.
        left_out: those that cannot, and why.
        cells: all cells of the studies.
        rows: the distinct settings among them, by key.
        datasets: by ``dataset_key``.
        limit: pictures of every data set; None = all.
    """

    config_path: Path
    studies: dict[str, Study]
    left_out: dict[str, str] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    rows: dict[str, Row] = field(default_factory=dict)
    datasets: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None

    def images(self, row: Row) -> int:
        """Number of pictures that the row is evaluated on."""
        size = len(self.datasets[row.dataset_key])
        return min(self.limit or size, size)

    def groups(self, keys: Collection[str]) -> list[list[list[Row]]]:
        """Rows with these keys: those that share blocks, each in groups that share features."""
        groups: dict[str, dict[str, list[Row]]] = {}
        for key, row in self.rows.items():
            if key in keys:
                groups.setdefault(row.tower_key, {}).setdefault(row.feature_key, []).append(row)
        return [list(inner.values()) for inner in groups.values()]


def make_plan(
    config: Config,
    path: Path,
    studies: Mapping[str, Study],
    may_fail: Collection[str] = (),
    limit: int | None = None,
) -> Plan:
    """Builds and checks everything that the studies need.

    Args:
        config: as :func:`itaclip.evaluation.command.load_config` returns it.
        path: where it came from.
        studies: by name.
        may_fail: studies that are left out, with a note, where they do not fit the config.
        limit: first pictures only.

    Raises:
        InputError: the config, a study or its data cannot be used.
    """
    plan = Plan(path, {}, limit=limit)
    init_default_scope(config.default_scope)
    settings = settings_of(config)
    with building(path):
        builder = _Builder(plan)
        setting = _setting_of(settings["model"], builder.row(settings, config, path).model)
        for name, study in studies.items():
            try:
                cells = list(_cells(builder, config, path, settings, setting, name, study))
            except InputError as error:
                if name not in may_fail:
                    raise
                plan.left_out[name] = str(error)
                continue
            plan.studies[name] = study
            plan.cells += [cell for cell, _ in cells]
            plan.rows |= {row.key: row for _, row in cells}
    if not plan.cells:
        reasons = "".join(f"\n  {name}: {why}" for name, why in plan.left_out.items())
        raise InputError(f"{path}: no study can run with this config:{reasons}")
    return plan


@dataclass(frozen=True)
class Entry:
    """One config of a plan of many.

    Attributes:
        path, config: as :func:`itaclip.evaluation.command.load_config` gives it.
        method, benchmark: the row and the column of the table that it belongs to.
        variant: what tells it from the same config's other entries, such as a precision.
    """

    path: Path
    config: Config
    method: str
    benchmark: str
    variant: str = ""


def plan_of_configs(entries: Sequence[Entry], limit: int | None = None) -> Plan:
    """A plan of whole configs, which share work as far as their settings allow.

    Args:
        entries: a cell each; its study is the benchmark, its row the method.
        limit: first pictures only.

    Raises:
        InputError: naming the config that cannot be used.
    """
    plan = Plan(entries[0].path, {}, limit=limit)
    init_default_scope(entries[0].config.default_scope)
    builder = _Builder(plan)
    for entry in entries:
        with building(entry.path):
            row = builder.row(settings_of(entry.config), entry.config, entry.path)
        plan.cells.append(Cell(entry.benchmark, entry.method, entry.variant, {}, row.key))
        plan.rows[row.key] = row
    return plan


def settings_of(config: Config) -> dict[str, Any]:
    """A config's :data:`PARTS`."""
    return {part: copy.deepcopy(config.to_dict()[part]) for part in PARTS}


def _cells(
    builder: "_Builder",
    config: Config,
    path: Path,
    settings: dict[str, Any],
    setting: Setting,
    name: str,
    study: Study,
) -> Iterator[tuple[Cell, Row]]:
    """Every cell of a study with its row.

    Raises:
        InputError: naming the study and the cell that cannot run.
    """
    for row_label, row_changes in study.rows.items():
        for column_label, column_changes in study.columns.items():
            where = f"study {name!r}, {row_label}" + (f" / {column_label}" * bool(column_label))
            try:
                merged = {**study.base, **row_changes, **column_changes}
                changes = resolve_changes(merged, setting)
                row = builder.row(apply_changes(settings, changes), config, path)
            except InputError as error:
                raise InputError(f"{where}: {error}") from error
            yield Cell(name, row_label, column_label, plain(changes), row.key), row


class _Builder:
    """Turns settings into rows; what several need is built once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        # Results of other code are not mixed with new ones.
        self.code = code_sha256()
        self.manifests: dict[str, dict] = {}
        self.built: dict[str, Row] = {}  # by the JSON of the settings
        # By name and clip_config; frozen, so all may share them.
        self.clips: dict[tuple[str, str], nn.Module] = {}

    def row(self, settings: dict[str, Any], config: Config, path: Path) -> Row:
        """The row of some settings; ``config`` and ``path`` are where they come from."""
        text = json.dumps(plain(settings), sort_keys=True)
        if text not in self.built:
            self.built[text] = self._new_row(settings, config, path)
        return self.built[text]

    def _new_row(self, settings: dict[str, Any], config: Config, path: Path) -> Row:
        dataset_key = _digest(settings["test_dataloader"]["dataset"])
        dataset = self._dataset(dataset_key, settings, config, path)
        metric = _metric_of(settings["test_evaluator"])
        metric.dataset_meta = dataset.metainfo
        check_model_keys(ConfigDict(settings["model"]), path)
        model = self._model(copy.deepcopy(settings["model"]))
        described = describe_model(settings["model"], model)
        model_and_data = SimpleNamespace(
            model=model, test_dataloader=SimpleNamespace(dataset=dataset)
        )
        CheckClassesHook().before_test(model_and_data)
        scored = {"ignore_index": metric.ignore_index, "metrics": metric.metrics}
        key = _digest([described, dataset_key, scored])[:20]
        tower_key, feature_key = _sharing_keys(described, model, dataset_key) or (key, key)
        return Row(
            key=key,
            settings=settings,
            model=model,
            metric=metric,
            dataset_key=dataset_key,
            tower_key=tower_key,
            feature_key=feature_key,
            inputs={
                "weights": weights_entry(settings["model"]),
                "texts": [file_entry(settings["model"].get(key)) for key in _TEXTS[::2]],
                "data": self.manifests[dataset_key]["sha256"],
                "precision": precision_entry(settings["model"], model)["used"],
                "code": self.code,
            },
        )

    def _model(self, settings: dict[str, Any]) -> nn.Module:
        if MODELS.get(settings["type"]) is ITACLIPSegmentor:
            name, told = settings.get("clip_model", _DEFAULT_CLIP), settings.get("clip_config")
            key = (name, repr(told))
            if key not in self.clips:
                self.clips[key] = load_clip(name, told)
            settings["clip_model"] = self.clips[key]
        return MODELS.build(settings).eval().to(default_device())

    def _dataset(self, key: str, settings: dict[str, Any], config: Config, path: Path) -> Any:
        if key not in self.plan.datasets:
            changed = Config(dict(config.to_dict(), **copy.deepcopy(settings)))
            check_data(changed, path)
            dataset = DATASETS.build(changed.test_dataloader.dataset)
            self.manifests[key] = data_manifest(dataset)
            self.plan.datasets[key] = dataset
        return self.plan.datasets[key]


# ---- changes ------------------------------------------------------------------------------------


def resolve_changes(changes: Changes, setting: Setting) -> dict[str, Any]:
    """Values that are functions become plain values."""
    return {key: value(setting) if callable(value) else value for key, value in changes.items()}


def apply_changes(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of settings with values at dotted keys replaced as a whole.

    A key below ``model.attention`` turns a recipe's name into ``dict(recipe=name)`` first. Numbers
    in a key are indices of lists.

    Raises:
        InputError: a key that does not lie in what an evaluation depends on.
    """
    result = copy.deepcopy(dict(settings))
    for key, value in changes.items():
        *path, last = key.split(".")
        if not path or path[0] not in PARTS:
            raise InputError(f"{key}: expected a key below {', '.join(PARTS)}")
        attention = result["model"].get("attention", "itaclip")
        if key.startswith("model.attention.") and isinstance(attention, str):
            result["model"]["attention"] = {"recipe": attention}
        place = result
        for step in path:
            place = _step_into(place, step, key)
        if isinstance(place, list):
            place[_index(place, last, key)] = copy.deepcopy(value)
        else:
            place[last] = copy.deepcopy(value)
    return result


def _step_into(place: Any, step: str, key: str) -> Any:
    inner = place[_index(place, step, key)] if isinstance(place, list) else place.get(step)
    if not isinstance(inner, dict | list):
        raise InputError(f"{key}: the config has nothing at {step!r} that holds keys")
    return inner


def _index(place: list, step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise InputError(f"{key}: expected an index below {len(place)}, but got {step!r}")
    return int(step)


# ---- what a row depends on ----------------------------------------------------------------------


def describe_model(settings: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    """The model's settings with defaults filled in and the recipe resolved: equal models, equal
    descriptions.
    """
    if type(model) is not ITACLIPSegmentor:
        return dict(settings)
    parameters = inspect.signature(ITACLIPSegmentor).parameters
    described = {name: parameter.default for name, parameter in parameters.items()} | settings
    described = {key: value for key, value in described.items() if key not in _NO_EFFECT}
    described["attention"] = describe_recipe(model.image_encoder.recipe)
    return described


def describe_recipe(recipe: Any) -> dict[str, Any]:
    """A recipe's constants, without where it was published."""
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    about = dict.fromkeys(("source", "exact", "left_out"))
    return {"kind": type(recipe).__name__, **values, **about}


def _sharing_keys(
    described: dict[str, Any], model: nn.Module, dataset_key: str
) -> tuple[str, str] | None:
    """What the blocks before the last depend on, and what the features do; None for models from
    elsewhere, of which nothing is known.
    """
    if type(model) is not ITACLIPSegmentor:
        return None
    kept = {key: value for key, value in described.items() if key not in _AFTER_FEATURES}
    kept["views"] = [view.name for view in model.settings.views]
    recipe = model.image_encoder.recipe
    words = {key: described[key] for key in _TEXTS} if recipe.needs_text else {}
    # Methods that repair tokens between blocks, or read a guide, have passes of their own.
    own = type(recipe).after_block is not Recipe.after_block or recipe.needs_guide
    blocks = kept if own else {**kept, "attention": None}
    return _digest([blocks, dataset_key]), _digest([kept | words, dataset_key])


def _digest(value: Any) -> str:
    text = json.dumps(plain(value), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _setting_of(settings: Mapping[str, Any], model: nn.Module) -> Setting:
    if not isinstance(model, ITACLIPSegmentor):
        return Setting(settings)
    encoder = model.image_encoder
    return Setting(
        settings,
        depth=encoder.depth,
        crop=model.settings.windows.crop_size,
        middle_layers=tuple(getattr(encoder.recipe, "middle_layers", ())),
    )


def _metric_of(settings: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> IoUMetric:
    """The config's IoUMetric, which writes no files here."""
    several = settings if isinstance(settings, list | tuple) else [settings]
    for entry in several:
        if entry.get("type") == "IoUMetric" and not entry.get("format_only"):
            return METRICS.build({**entry, "output_dir": None})
    raise InputError("test_evaluator: expected an IoUMetric, since a study compares mIoU")
