"""rows → answers: selects rows, has them answered, appends each answer as it comes.

    python prediction.py --model-path /models/chatglm3-6b-32k --model-name chatglm3 \
        --model-max-len 31500

The same command again resumes. Its last line is the run's folder, `<output-dir>/<model-name>`,
which evaluation.py reads. Every option is declared in lveval/option_groups.py. In a program:

    from lveval import predict
    folder = predict(model_path="/models/chatglm3-6b-32k", model_max_len=31500)
"""

if __name__ == "__main__":
    import lveval.common.startup  # noqa: F401 - first: an interrupt among the imports is a line

import itertools
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from lveval import __version__, config, user_tables, utils
from lveval.backends import load_plugins
from lveval.backends.base import EngineOptions, prompt_limit
from lveval.common import interrupts, logs
from lveval.common.command_line import next_step, program
from lveval.common.errors import ExitCode, IncompleteRun, UsageError, run_cli
from lveval.common.levels import FileKey
from lveval.common.logs import log
from lveval.common.text import unbroken
from lveval.data.controls import CONTROLS
from lveval.data.dataset import allow_unverified
from lveval.data.own_subsets import declare, read_own_subsets
from lveval.data.prompt_sets import OFFICIAL_MAPPING_SHA256, PromptSet, load_prompts
from lveval.data.selection import SelectedFile, load_selection
from lveval.execution import dispatch, remote_cluster
from lveval.execution.cost import CostTracker
from lveval.execution.pool import gpu_groups, visible_gpus, worker_pool
from lveval.execution.recorder import Recorder
from lveval.execution.schedule import pending_tasks
from lveval.execution.tasks import Job, Task, TaskResult
from lveval.execution.trackers import track_run
from lveval.options import (
    UNKNOWN_WINDOW_LIMIT,
    RunOptions,
    Scheduler,
    keyword_words,
    run_command,
    without_secrets,
)
from lveval.planning import token_counts
from lveval.planning.check import run_checks
from lveval.planning.plan import print_plan
from lveval.planning.workload import write_workload
from lveval.runs.folder import read_manifest, records_depths, run_folder
from lveval.runs.record import JsonObject
from lveval.runs.spec import RunSpec
from lveval.runs.store import RunStore


def main(argv: Sequence[str] | None = None) -> ExitCode:
    """Have the selected rows answered: 0 when all are, 3 when some are missing."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = RunOptions.parse(user_tables.taken(words))
    logs.configure(verbose=options.verbose, quiet=options.quiet)
    code = execute(options, words)
    if code in (ExitCode.COMPLETE, ExitCode.INCOMPLETE) and not options.looks:
        print(unbroken(str(options.folder)))
    return code


def predict(**options: object) -> Path:
    """Have the selected rows answered, as the command does; returns the run's folder.

    Keywords are the command's options with `_` for `-`, such as model_path="/models/Yi-6B-200K",
    datasets=["lic_mixup"], single_process=True. The same call again resumes. Raises LVEvalError
    for what ends the command with a sentence, IncompleteRun among them where rows are missing;
    KeyboardInterrupt once what was answered is saved.
    """
    words = keyword_words(options)
    with user_tables.restored():
        given = RunOptions.of_program(user_tables.taken(words))
        with logs.shown(verbose=given.verbose, quiet=given.quiet):
            code = execute(given, words)
    if code is ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code is ExitCode.INCOMPLETE:
        raise IncompleteRun(
            f"{given.folder}: rows are missing; attempts.jsonl has the causes; the same call again "
            "goes on"
        )
    return given.folder


def execute(options: RunOptions, words: list[str]) -> ExitCode:
    """Plan, check or do what the options ask for; `words` are what they were read from."""
    # --- 1. What is asked, and by what --------------------------------------------------------
    prompts = load_prompt_set(options)
    keys = options.selected_files(prompts.by_subset)
    run = Run.of(options, keys)

    # --- 2. Selection: every data file is read and checked before a model is loaded -----------
    load = partial(
        load_selection,
        keys,
        options.data_path,
        options.limit,
        control=options.control,
        sample=options.drawn,
        part=options.part,
    )
    if options.plan or options.export_prompts:
        with token_counts.counting_pool(keys) as pool:
            files = load(pool)
            allow_unverified_data(run, files)
            spec = build_spec(run, prompts, files, cluster_environment(run))
            warn_of_surprises(run, spec)
            job = make_job(run, prompts, files)
            if options.export_prompts:
                write_workload(options.export_prompts, job, files, pool)
                print(unbroken(str(options.export_prompts)))
                return ExitCode.COMPLETE
            more = print_plan(options, job, files, spec.as_identity(), run.gpu_groups, pool)
        print(next_step("run folder", options.folder, run_command(words) if more else run.scoring))
        return ExitCode.COMPLETE
    files = load()
    unverified = allow_unverified_data(run, files)

    # --- 3. Spec: what decides the answers ----------------------------------------------------
    environment = cluster_environment(run)
    spec = build_spec(run, prompts, files, environment)
    job = make_job(run, prompts, files, environment)
    if options.check:
        if options.model_max_len is None:  # the check itself compares a given one
            run.log_limit()
        code = run_checks(job, files, run.gpu_groups, options.single_process)
        then = "mend the errors, and check again" if code else run_command(words)
        print(next_step("run folder", options.folder, then))
        return code

    try:
        left = answer_missing(run, spec, job, files, words, unverified)
    except KeyboardInterrupt as error:
        saved = f"all answers so far are saved in {options.folder}"
        how = f"interrupted{interrupts.by(error)}"
        log.warning("%s: %s; run %s", how, saved, run.resume_command)
        return ExitCode(interrupts.exit_code(error))
    then = run.resume_command if left else run.scoring
    log.info(next_step("run folder", options.folder, then))
    return ExitCode.INCOMPLETE if left else ExitCode.COMPLETE


def answer_missing(
    run: "Run",
    spec: RunSpec,
    job: Job,
    files: Sequence[SelectedFile],
    words: list[str],
    unverified: list[str],
) -> int:
    """Have the rows of the run answered that no earlier start has; returns how many are left.

    `unverified`: the names of files without the published rows. Whenever it is interrupted, all
    answers so far are saved.
    """
    options = run.options
    # --- 4. The run: a new folder, or one to be resumed ---------------------------------------
    selection = {file.name: file.rows for file in files}
    rows = {file.name: len(file.file) for file in files}
    with RunStore.open(
        options.folder,
        spec.as_identity(),
        selection,
        rows,
        left_out={file.name: file.left_out for file in files},
        sampled={file.name: file.sample for file in files if file.sample is not None},
        unverified=unverified,
        part=options.part,
        overwrite=options.overwrite,
    ) as store:
        backend = options.module
        cost = CostTracker.from_options(
            options, run.limit, run.budgets, backend.answer_tokens(run.engine) or 0
        )
        asked = {file.name: file.missing(frozenset()) for file in files}
        cost.in_flight = backend.claim_rows_in_flight(run.engine, store.is_answered, asked)
        for record in store.records():
            cost.charge(record)
        tasks = pending_tasks(
            store,
            files,
            # An engine that computes rows together gets them one by one: each is saved when ready.
            batch_size=1 if job.max_concurrent_rows > 1 or run.remote else options.batch_size,
            retry_failed=options.retry_failed,
            # Under a limit the files take turns: what it allows is spread over all of them.
            in_turn=options.max_cost is not None or options.max_hours is not None,
            in_flight=cost.in_flight,
        )
        run.log_start(store, words, selection, tasks)
        if tasks:
            warn_of_surprises(run, spec)

        # --- 5. Answers: each is recorded as it comes -----------------------------------------
        from lveval.evaluation import LiveScores  # here, so that no --help waits for scoring

        with track_run(options.track, options.folder, store.manifest["identity"]) as tracker:
            live = LiveScores(tracker, options.folder)
            alike = options.control is not None and CONTROLS[options.control].short
            recorder = Recorder(store, files, cost, live.add, alike=alike)
            with interrupts.graceful(cost.stop):  # what is in flight may still come
                failures = recorder.record(answers(run, job, tasks, cost))
            left = sum(len(file.missing(store.answered(*file.key))) for file in files)
            used = {
                "prompt_tokens": cost.prompt_tokens,
                "answer_tokens": cost.answer_tokens,
                "usd": cost.cost,
            }
            store.log({"event": "end", "rows_left": left, "used": used})
            for line in summary_lines(run, store, cost, failures, left):
                log.info(line)
            if not left and not options.part:
                live.end()
    return left


@dataclass(frozen=True)
class Run:
    """What is settled once the options are known: the engine's settings, GPUs and workers."""

    options: RunOptions
    asked: EngineOptions  # as the options say it; see `engine`
    scheduler: Scheduler | None
    gpu_groups: list[str]  # the GPUs of each worker, as CUDA_VISIBLE_DEVICES names them

    @classmethod
    def of(cls, options: RunOptions, keys: Sequence[FileKey]) -> "Run":
        """Share the visible GPUs among workers. Raises UsageError where there are too few."""
        scheduler, engine = options.cluster_scheduler(), options.engine_options()
        gpus = visible_gpus() if options.module.ON_GPUS and not scheduler else []
        each = max(1, len(gpus)) if options.single_process else options.gpus_per_worker
        # A plan can be made on a machine without the GPUs that the run will have.
        needs_none = (options.plan or options.export_prompts) and not options.calibrate
        absent = needs_none and not gpus
        groups = [] if scheduler or absent else gpu_groups(gpus, each)
        path = engine.model_path
        if scheduler and path and Path(path).exists():  # workers have another working directory
            path = str(Path(path).absolute())
        budget = max(config.DATASET_MAXGEN[subset] for subset, _ in keys) + engine.thinking_budget
        engine = replace(
            engine,
            model_path=path,
            gpus=len(gpus),
            gpus_per_worker=each,
            max_new_tokens=budget,
            think_tags=(*utils.THINK_TAGS, *engine.think_tags),
        )
        return cls(options, engine, scheduler, groups)

    @cached_property
    def chat_mode(self) -> str:
        """--chat-template; a run begun by version 0.1 keeps what `auto` meant then."""
        mode = self.options.chat_template
        if mode == "auto" and self.begun.get("chat_template") == "auto":
            ruled = utils.TEMPLATE_FIRST in self.begun["tables"]
            return mode if ruled else utils.TABLES_FIRST
        return mode

    @cached_property
    def begun(self) -> JsonObject:
        """What decides the answers of the run that the folder holds, to be resumed; or nothing."""
        found = None if self.options.overwrite else read_manifest(self.options.folder)
        return found["identity"] if found else {}

    @cached_property
    def engine(self) -> EngineOptions:
        """The engine's settings; asked for where the limit may be settled, after the data."""
        return replace(self.asked, model_max_len=self.limit)

    @cached_property
    def limit(self) -> int:
        """The longest prompt, in tokens: as given, as begun, or what the model's window allows."""
        given = self.options.model_max_len or self.begun.get("model_max_len")
        if isinstance(given, int):
            return given
        return UNKNOWN_WINDOW_LIMIT if self.window is None else self._most(self.window)

    def _most(self, window: int) -> int:
        return prompt_limit(window, self.asked.max_new_tokens)

    @cached_property
    def window(self) -> int | None:
        """The model's window in tokens, where it is known. A plan asks no service."""
        backend = self.options.module
        if self.scheduler:
            with remote_cluster.connect(self.scheduler) as cluster:
                return cluster.context_window(self.options.backend, self.asked)
        return None if self.remote and self.options.plan else backend.context_window(self.asked)

    def log_limit(self) -> None:
        """Say where prompts are cut, unless that is just below the window and was asked for."""
        given, cut = self.options.model_max_len or self.begun, f"prompts are cut at {self.limit:,}"
        if given and self.scheduler:  # whose workers would have to be asked
            return
        if self.window is not None:
            if not given or self.limit < self._most(self.window):
                log.info(f"the model's window is {self.window:,} tokens; {cut}")
        elif not given:
            planned = self.remote and self.options.plan
            why = "a plan asks no service for its" if planned else "nothing tells the model's"
            log.info(f"{why} window; {cut} tokens (--model-max-len)")

    @property
    def budgets(self) -> dict[str, int]:
        """The new tokens that each subset's answers may have, reasoning counted."""
        thinking = self.engine.thinking_budget
        return {subset: answer + thinking for subset, answer in config.DATASET_MAXGEN.items()}

    @property
    def remote(self) -> bool:
        """Whether the rows are answered at an endpoint, without workers."""
        return self.options.module.REMOTE

    @property
    def idle_gpus(self) -> int:
        """GPUs that are too few for one more worker."""
        return self.engine.gpus - self.engine.gpus_per_worker * len(self.gpu_groups)

    @property
    def resume_command(self) -> str:
        """What to run, in words, to go on where a start ended."""
        excepted = ", without --overwrite," if self.options.overwrite else ""
        return f"the same command again{excepted}"

    @property
    def scoring(self) -> str:
        """What to run to score it; a part is joined with the others first."""
        folder, merge = self.options.folder, ""
        if self.options.part:
            folder = run_folder(self.options.output_dir, self.options.model_name)
            merge = "--merge "
        return f"{program('evaluate')} {merge}--input-dir {shlex.quote(str(folder))}"

    def workers(self, tasks: Sequence[Task]) -> int:
        """The number of processes on this machine."""
        if self.options.single_process:
            return 1
        wanted = self.options.num_workers or len(self.gpu_groups) or 1
        return min(wanted, max(1, len(tasks)))

    def log_start(
        self, store: RunStore, words: list[str], selection: Mapping[str, int], tasks: Sequence[Task]
    ) -> None:
        """Note in run.json what decides no answer: the command line, the workers, the version."""
        workers = self.options.scheduler or self.workers(tasks)
        started = {"argv": without_secrets(words), "selection": selection, "workers": workers}
        per_worker = {"gpus_per_worker": self.engine.gpus_per_worker}
        store.log({"event": "start", **started, **per_worker, "lveval": __version__})


def load_prompt_set(options: RunOptions) -> PromptSet:
    """The templates of the run; subsets that stand beside the data are known from now on.

    Raises UsageError for --published with others than the official.
    """
    own = read_own_subsets(options.data_path)
    declare(own)
    prompts = replace(load_prompts(options.prompts), own=own)
    if options.published and not prompts.official:
        raise UsageError(
            f"--published: the templates of --prompts {options.prompts} have SHA-256 "
            f"{prompts.sha256}; expected the official ones, {OFFICIAL_MAPPING_SHA256}"
        )
    return prompts


def allow_unverified_data(run: Run, files: Sequence[SelectedFile]) -> list[str]:
    """Name the files without the published rows, under --allow-unverified-data.

    Raises DataError for one without it, unless the run to be resumed has it already.
    """
    return allow_unverified(
        (selected.file for selected in files),
        run.begun.get("data", {}),
        allowed=run.options.allow_unverified_data,
    )


def cluster_environment(run: Run) -> remote_cluster.Environment:
    """What the scheduler's workers have agreed on: code, versions, engine; empty without one."""
    if run.scheduler is None:
        return {}
    with remote_cluster.connect(run.scheduler) as cluster:
        return cluster.agree(run.options.backend, run.engine)


def build_spec(
    run: Run,
    prompts: PromptSet,
    files: Sequence[SelectedFile],
    environment: remote_cluster.Environment,
) -> RunSpec:
    """What decides the answers of a run.

    With a scheduler its workers say what the engine is: this machine may have neither GPU nor
    model. Raises LVEvalError where the engine cannot work with these options.
    """
    options, backend = run.options, run.options.module
    plugins = load_plugins(run.engine)
    plugins.require_outside_the_model(backend.name)
    subsets = dict.fromkeys(file.file.subset for file in files)
    return RunSpec(
        backend=backend.name,
        engine=environment["engine"] if environment else backend.settings_fingerprint(run.engine),
        backend_args={
            k: v for k, v in run.engine.args.items() if k not in backend.RUNTIME_ONLY_ARGS
        },
        model_name=options.model_name,
        model_max_len=run.limit,
        batch_size=options.batch_size,
        prompts={"name": prompts.name, "sha256": prompts.sha256, "official": prompts.official},
        chat_template=options.chat_template,
        tables=utils.format_overrides(options.model_name, run.chat_mode),
        budgets={subset: config.DATASET_MAXGEN[subset] for subset in subsets},
        data={file.name: file.file.fingerprint for file in files},
        given={**options.given(), **plugins.fingerprint(), **backend.origin},
        subsets={name: own.as_data() for name, own in prompts.own.items() if name in subsets},
    )


def make_job(
    run: Run,
    prompts: PromptSet,
    files: Sequence[SelectedFile],
    environment: remote_cluster.Environment | None = None,
) -> Job:
    """All that a worker has to know of this run."""
    options = run.options
    return Job(
        backend=options.backend,
        options=run.engine,
        model_name=options.model_name,
        chat_template=run.chat_mode,
        templates=prompts.by_subset,
        budgets=run.budgets,
        fingerprints={file.name: file.file.fingerprint for file in files},
        data_path=options.data_path and options.data_path.absolute(),
        expected=environment or {},
        max_concurrent_rows=options.module.max_concurrent_rows(run.engine),
        row_hours=options.row_hours,
        records_depths=options.overwrite or records_depths(options.folder),
        control=options.control,
    )


def answers(run: Run, job: Job, tasks: Sequence[Task], cost: CostTracker) -> Iterator[TaskResult]:
    """Yield the results of the tasks as they come, from the endpoint or from workers.

    Nothing is loaded where there is no task.
    """
    if not tasks:
        return
    if run.remote:
        yield from dispatch.run_remote(job, tasks, cost.reserve)
        return
    count = run.workers(tasks)
    with worker_pool(
        single_process=run.options.single_process,
        count=count,
        gpus=run.gpu_groups,
        max_concurrent_rows=job.max_concurrent_rows,
        scheduler=run.scheduler,
    ) as executor:
        affordable = itertools.takewhile(cost.reserve, tasks)
        yield from dispatch.run_tasks(executor, job, affordable, count)


def warn_of_surprises(run: Run, spec: RunSpec) -> None:
    """Say what is easily overlooked: the prompt format, a CPU, GPUs left idle.

    Raises UsageError for a chat format that is not there or fails.
    """
    run.log_limit()
    if run.scheduler is None:  # else the model may be on the nodes only
        log.info("prompt format: %s", prompt_format(run))
    if spec.engine.get("device") == "cpu":
        log.warning("no GPU is visible to torch: the model runs on the CPU")
    if run.idle_gpus:
        log.warning("%d GPUs stay idle: too few for one more worker", run.idle_gpus)


def prompt_format(run: Run) -> str:
    """Which chat format is put around the prompts, and why."""
    backend, mode, name = run.options.module, run.chat_mode, run.options.model_name
    if utils.uses_native_chat(run.remote or backend.native_chat(run.engine), mode):
        return "made by the service" if run.remote else "made by the model's own .chat()"
    tokenizer = backend.tokenizer(run.engine)
    utils.format_chat(tokenizer, "PROMPT", name, mode)  # a template that fails does so here
    return utils.choose_chat_format(tokenizer.has_chat_template, name, mode).why


def summary_lines(
    run: Run, store: RunStore, cost: CostTracker, failures: Counter[str], left: int
) -> Iterator[str]:
    """Yield what a start came to: money, answers without text, and why rows are `left`."""
    if cost.cost:
        cached = f" ({cost.cached_tokens:,} from the cache)" if cost.cached_tokens else ""
        yield (
            f"spent {cost.cost:,.2f} USD so far: {cost.prompt_tokens:,} prompt tokens{cached}, "
            f"{cost.answer_tokens:,} answer tokens"
        )
    empty = unfinished = 0
    for record in store.records():
        empty += record["status"] == "empty"
        unfinished += (
            record["status"] == "length"
            and not record["pred"]
            # A service may hide its reasoning; here it is in the raw text, or there was none.
            and bool(run.remote or str(record.get("raw_pred", "")).strip())
        )
    if empty:
        yield f"{empty} answers are empty: the model ended them without a word"
    if unfinished:
        yield (
            f"{unfinished} answers are empty: the model was still reasoning when their budget "
            "ended. More room makes another run: --thinking-budget 4000"
        )
    if run.options.part:
        number, of = run.options.part
        yield f"part {number} of {of}; once the others are there, join them: {run.scoring}"
    causes = ", ".join(f"{cause}: {count}" for cause, count in sorted(failures.items()))
    if left and cost.stop_reason:
        yield (
            f"ended: {cost.stop_reason}; {left} rows have no answer yet"
            f"{causes and f' ({causes})'}; all answers so far are saved; run {run.resume_command} "
            f"to go on{', with more to spend' if cost.exhausted else ''}"
        )
    elif left:
        yield (
            f"incomplete: {left} rows have no answer ({causes or 'skipped'}); the causes are in "
            f"attempts.jsonl; run {run.resume_command} to try them again (context_overflow: only "
            "with --retry-failed; a new run with a smaller --model-max-len avoids it)"
        )


if __name__ == "__main__":
    run_cli(main)
