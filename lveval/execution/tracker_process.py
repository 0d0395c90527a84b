"""The process that speaks to a tracker, so that its library can neither stop nor slow a run.

    python -P tracker_process.py < messages    # a JSON object a line, written by trackers.py

The first line says whom to tell of which run, the next ones hold values; the end of its input is
the end of the run. It imports nothing of the harness, and whatever goes wrong is its last line on
standard error.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

Values = Mapping[str, float]
SECONDS_TO_FINISH = 120  # also where the process that started it was killed
PARAMS_AT_ONCE = 100  # what mlflow takes in one call


class Wandb:
    """A run of Weights & Biases, online or offline as its own variables say."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        self._run = wandb.init(
            project=start["project"],
            id=start["id"],
            name=start["name"],
            resume="allow",
            settings=settings,
        )
        self._run.config.update(start["settings"], allow_val_change=True)
        self._run.define_metric("*", step_metric="files")

    def log(self, step: int, values: Values) -> None:
        """Add a point to each curve."""
        self._run.log({**values, "files": step})

    def final(self, values: Values) -> None:
        """Set what the run came to."""
        self._run.summary.update(dict(values))

    def finish(self) -> None:
        """Send what is left."""
        self._run.finish()


class Mlflow:
    """A run of an MLflow experiment, at the address in MLFLOW_TRACKING_URI or in ./mlflow.db."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = client = MlflowClient()
        experiment = client.get_experiment_by_name(start["project"])
        place = (
            experiment.experiment_id if experiment else client.create_experiment(start["project"])
        )
        found = client.search_runs([place], f"tags.lveval_run = '{start['id']}'", max_results=1)
        tags = {"lveval_run": start["id"]}
        run = found[0] if found else client.create_run(place, run_name=start["name"], tags=tags)
        self._id, known = run.info.run_id, run.data.params
        client.update_run(self._id, status="RUNNING")
        # A parameter of MLflow may be set once only.
        new = [Param(k, str(v)) for k, v in start["settings"].items() if k not in known]
        for at in range(0, len(new), PARAMS_AT_ONCE):
            client.log_batch(self._id, params=new[at : at + PARAMS_AT_ONCE])

    def log(self, step: int, values: Values) -> None:
        """Add a point to each curve."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def final(self, values: Values) -> None:
        """Set what the run came to."""
        self.log(0, values)

    def finish(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio, local or in a Space as its own variables say."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        import trackio

        self._run = trackio.init(
            project=start["project"],
            name=f"{start['name']} {start['id']}",  # it goes on with the run of that name
            config=dict(start["settings"]),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._trackio = trackio

    def log(self, step: int, values: Values) -> None:
        """Add a point to each curve."""
        self._trackio.log(dict(values), step=step)

    def final(self, values: Values) -> None:
        """Set what the run came to, as a last point."""
        self._trackio.log(dict(values))

    def finish(self) -> None:
        """Write what is left."""
        self._trackio.finish()


class Tracker(Protocol):
    """What each of them can do."""

    def log(self, step: int, values: Values) -> None:
        """Add a point to each curve, after so many files."""

    def final(self, values: Values) -> None:
        """Set what the run came to."""

    def finish(self) -> None:
        """Send what is left."""


KINDS: dict[str, Callable[[Mapping[str, Any]], Tracker]] = {
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def messages() -> Iterator[dict[str, Any]]:
    """Read standard input to its end; a line that was cut off ends it, too."""
    for line in sys.stdin.buffer:
        if not line.endswith(b"\n"):
            return
        yield json.loads(line)


def main() -> None:
    """Tell the tracker all that comes."""
    coming = messages()
    start = next(coming, None)
    if start is None:
        return
    tracker = KINDS[start["kind"]](start)
    for message in coming:
        if message["final"]:
            tracker.final(message["values"])
        else:
            tracker.log(message["step"], message["values"])
    signal.alarm(SECONDS_TO_FINISH)
    tracker.finish()


if __name__ == "__main__":
    main()
