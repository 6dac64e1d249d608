"""Which charts does a person want of the runs in a W&B project?  A workspace, W&B's saved dashboard, as code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr.errors import ConfigurationError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

# Not imported from what trains, which takes seconds to load; a test holds every key against a real run.
MONITOR = "val/auroc"
BEST = f"best/{MONITOR}"
LR, IMAGE_SIZE, WEIGHTING, MODEL = "optimizer.lr", "data.image_size", "class_weighting", "model.name"


def build_workspace(project: str, entity: str = "", *, split: str = "test", name: str = "cxr") -> Workspace:
    """The workspace of a project: what a sweep found, how runs trained, calibration, subgroups and cost.

    Args:
        project, entity: of W&B; the entity may be empty for a workspace that is only written to a file.
        split: whose evaluations are shown: test, val, train or the name of a collection.
        name: of the workspace.

    Raises:
        ConfigurationError: the extra ``cxr[dashboard]`` is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError:
        raise ConfigurationError("python -m cxr.dashboard: install it with the extra cxr[dashboard]") from None

    best = wr.SummaryMetric(BEST)

    def config(key: str) -> Any:
        return wr.Config(key)

    def by(key: str, title: str, *, log: bool | None = None) -> Any:
        return wr.ScatterPlot(title=title, x=config(key), y=best, log_x=log)

    def bars(title: str, *keys: str, groupby: str | None = None) -> Any:
        grouped = {"groupby": config(groupby), "groupby_aggfunc": "max"} if groupby is not None else {}
        return wr.BarPlot(title=title, metrics=list(keys), **grouped)

    def lines(title: str, *keys: str) -> Any:
        return wr.LinePlot(title=title, x="trainer/global_step", y=list(keys))

    def table(key: str) -> Any:
        return wr.WeavePanelSummaryTable(table_name=f"{split}/{key}")

    columns = [(LR, "learning rate", True), (IMAGE_SIZE, "image size", None), (WEIGHTING, "class weighting", None)]
    parallel = wr.ParallelCoordinatesPlot(
        title=f"What makes a good {BEST}",
        columns=[
            *(
                wr.ParallelCoordinatesPlotColumn(config(key), display_name=shown, log=log)
                for key, shown, log in columns
            ),
            wr.ParallelCoordinatesPlotColumn(config(MODEL), display_name="network"),
            wr.ParallelCoordinatesPlotColumn(best, display_name="best AUROC"),
        ],
    )
    sections = {
        "Sweep: best validation AUROC": [
            by(LR, "by learning rate", log=True),
            by(IMAGE_SIZE, "by image size, pixels of a side"),
            bars("by class weighting, the best run of each", BEST, groupby=WEIGHTING),
            parallel,
            wr.ParameterImportancePlot(with_respect_to=BEST),
            bars("every run", BEST),
        ],
        "Training": [
            lines("validation AUROC", MONITOR),
            lines("loss", "train/loss", "val/loss"),
            lines("learning rate", "lr"),
        ],
        f"Evaluation: {split}": [
            bars("AUROC and its 95 % interval", *(f"{split}/auroc{part}" for part in ("_low", "", "_high"))),
            bars("sensitivity and specificity, likeliest class", f"{split}/sensitivity", f"{split}/specificity"),
            table("confusion_matrix_table"),
            table("predictions"),
        ],
        "Calibration": [
            bars("calibration error (equal mass)", f"{split}/ece_equal_mass_before", f"{split}/ece_equal_mass"),
            bars("calibration slope (1 is right)", f"{split}/slope_before", f"{split}/slope"),
            wr.CustomChart(
                query={"summaryTable": {"tableKey": f"{split}/reliability_table"}},
                chart_name="wandb/line/v0",
                chart_fields={"x": "mean_predicted", "y": "observed"},
                chart_strings={"title": f"{split}: predicted and observed"},
            ),
        ],
        "Subgroups": [table("subgroups")],
        "Cost": [
            wr.ScatterPlot(title="AUROC for time", x=wr.SummaryMetric("cost/seconds"), y=best),
            bars("seconds per epoch", "cost/seconds_per_epoch"),
            bars("parameters", "cost/parameters"),
        ],
    }
    return ws.Workspace(
        name=name,
        entity=entity,
        project=project,
        auto_generate_panels=False,
        sections=[
            ws.Section(name=title, panels=panels, is_open=number < 2)
            for number, (title, panels) in enumerate(sections.items())
        ],
        settings=ws.WorkspaceSettings(max_runs=100),
        runset_settings=ws.RunsetSettings(
            order=[ws.Ordering(ws.Summary(BEST), ascending=False)],
            pinned_columns=[f"summary:{BEST}", "summary:status", f"config:{LR}", f"config:{IMAGE_SIZE}"],
        ),
    )


def push(workspace: Workspace, replaced: str | None = None) -> str:
    """Save a workspace on the server; its address.

    Args:
        workspace: from `build_workspace`, with an entity.
        replaced: address of a workspace of the same project that it takes the place of; None: a new one.
    """
    if replaced is not None:
        before = type(workspace).from_url(replaced)
        # The library has no public way to give a workspace that was built anew the place of another.
        workspace._internal_name, workspace._internal_id = before._internal_name, before._internal_id
    workspace.save()
    return str(workspace.url)


def to_json(workspace: Workspace) -> str:
    """The workspace as W&B's server takes it, as JSON text; `from_json` reads it."""
    return str(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=2))


def from_json(text: str) -> Workspace:
    """Read what `to_json` wrote.

    Raises:
        ConfigurationError: the text is no workspace.
    """
    from wandb_workspaces.workspaces import Workspace
    from wandb_workspaces.workspaces.internal import View

    try:
        return Workspace._from_model(View.model_validate_json(text))
    except ValueError as error:
        raise ConfigurationError(f"no workspace of W&B ({' '.join(str(error).split())[:160]})") from None
