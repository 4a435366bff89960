"""The command line, `gla`: the front door to every room.

Each subcommand imports what it needs when it is called, so that `gla --help` is quick. Annotations
are evaluated where they stand (no `from __future__ import annotations`), because the commands that
tyro reads name classes imported inside functions.
"""

import contextlib
import functools
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from gla.errors import GlaError, near_matches


def _parse(function: Callable, arguments: Sequence[str], name: str):
    """Call `function` with arguments parsed by tyro from its signature and docstring.

    Raises:
        GlaError: words that tyro does not understand, said in one line instead of its box.
    """
    import tyro

    calls = []

    @functools.wraps(function)
    def remember(*args, **kwargs):
        calls.append((args, kwargs))

    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            tyro.cli(remember, prog=f"gla {name}", args=list(arguments))
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise GlaError(_one_line(complaint.getvalue()), mend=f"see `gla {name} --help`") from None
    # Called out here, so that what the command itself prints is not taken for a complaint.
    args, kwargs = calls[0]
    return function(*args, **kwargs)


def _one_line(box: str) -> str:
    """Return what a box of tyro says: its first paragraph, and a suggestion if it has one."""
    paragraphs: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │╭╮╰╯─")
        if line.lstrip().startswith("╭"):
            continue
        if text:
            paragraphs[-1].append(text)
        elif paragraphs[-1]:
            paragraphs.append([])  # a rule between paragraphs
    said = " ".join(paragraphs[0])
    for words in paragraphs[1:]:
        if words and words[0].startswith("Perhaps you meant") and len(words) > 1:
            said += f" (perhaps you meant {words[1].split()[0]})"
    return said or "the command line was not understood"


def _quickstart(arguments: Sequence[str]):
    from gla.benchmarks.quickstart import quickstart

    _parse(quickstart, arguments, "quickstart")


def _collect(arguments: Sequence[str]):
    import tyro

    from gla.agents.backends import use_all_cores
    from gla.agents.fan_out import RayConfig, record_over_ray
    from gla.agents.makers import BUILT_IN, load_maker
    from gla.histories import record

    method, rest = "ppo", list(arguments)
    if rest and (rest[0] in BUILT_IN or re.fullmatch(r"[\w.]+:[A-Za-z_]\w*", rest[0])):
        method = rest.pop(0)
    entry = load_maker(method)
    settings = entry.config

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        config: Annotated[settings, tyro.conf.arg(name="")],  # type: ignore[valid-type]
        ray: RayConfig,
        fresh: bool = False,
    ):
        if ray.workers:
            print(record_over_ray(method, config, out, ray, fresh).describe())
            return
        use_all_cores()
        print(record(entry.make(config), out, fresh).describe())

    ways = "\n\n".join(f"        {name}: {what}." for name, (what, _, _) in BUILT_IN.items())
    command.__doc__ = f"""Collect learning histories; run again to go on where it stopped.

        `gla collect [HOW] OUT`, where HOW is how they are made, PPO if it is left out, or
        module:factory of a maker of your own. (A folder of such a name is ./NAME.)

{ways}

        Args:
            out: folder of the history store, or a URL such as s3://bucket/histories.
            config: what to collect.
            ray: spread over processes or machines with Ray.
            fresh: delete the store in that folder first.
        """
    _parse(command, rest, f"collect {method}" if rest != list(arguments) else "collect")


def _meta_train(arguments: Sequence[str]):
    import tyro

    if arguments and arguments[0] in ("rl2", "evolve"):
        own = _meta_train_rl2 if arguments[0] == "rl2" else _meta_train_evolve
        own(arguments[1:])
        return

    from gla import parallel
    from gla.presets import PRESETS, preset
    from gla.training import MetaTrainConfig, meta_train

    # A preset gives the defaults that the other options then change.
    name, rest = "gla", list(arguments)
    two_words = len(rest) > 1 and not any(word.startswith("-") for word in rest[:2])
    if rest and (rest[0] in PRESETS or two_words):
        name = rest.pop(0)
    sampling, objective = preset(name)
    default = MetaTrainConfig(sampling=sampling, objective=objective)

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        config: Annotated[MetaTrainConfig, tyro.conf.arg(name="")] = default,
        distributed: parallel.DistributedConfig = parallel.DistributedConfig(),  # noqa: B008
        minutes: float | None = None,
        fresh: bool = False,
    ):
        parallel.start(distributed)
        with contextlib.ExitStack() as opened:
            validate = None
            if config.validation.environments:
                from gla.benchmarks.validation import Validator

                validate = opened.enter_context(contextlib.closing(Validator(config)))
            folder = meta_train(config, out, fresh, minutes=minutes, validate=validate)
        if parallel.is_first():
            print(f"agent: {folder}")

    command.__doc__ = f"""Meta-train an agent on histories; run again to go on where it stopped.

        `gla meta-train [PRESET] OUT`, where PRESET is one of {", ".join(PRESETS)}: defaults of
        --sampling and --objective (GLA, Algorithm Distillation, Decision-Pretrained Transformer).
        These are {name}'s. (A folder of such a name is ./NAME.) Two methods need no histories:
        with `gla meta-train rl2 OUT` a recurrent network learns from rewards across lifetimes, with
        `gla meta-train evolve OUT` the rule of an agent that counts and plans is evolved.

        Args:
            out: checkpoint folder.
            config: what to train.
            distributed: this process's place, where several processes train together.
            minutes: stop after this many minutes of training, even if steps are left.
            fresh: delete the checkpoints in that folder first.
        """
    _parse(command, rest, f"meta-train {name}" if rest != list(arguments) else "meta-train")


def _meta_train_rl2(arguments: Sequence[str]):
    import tyro

    from gla.agents.rl2 import rl2_train
    from gla.agents.rl2_config import RL2Config

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        config: Annotated[RL2Config, tyro.conf.arg(name="")],
        minutes: float | None = None,
        fresh: bool = False,
    ):
        """Meta-train a recurrent agent by reinforcement learning across lifetimes (RL^2).

        Duan et al. 2016; Wang et al. 2016. Run it again to go on where it stopped.

        Args:
            out: checkpoint folder.
            config: what to train.
            minutes: stop after this many minutes of training, even if updates are left.
            fresh: delete the checkpoints in that folder first.
        """
        print(f"agent: {rl2_train(config, out, fresh, minutes=minutes)}")

    _parse(command, arguments, "meta-train rl2")


def _meta_train_evolve(arguments: Sequence[str]):
    import tyro

    from gla.agents.evolution import evolve
    from gla.tabular.config import EvolutionConfig

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        config: Annotated[EvolutionConfig, tyro.conf.arg(name="")],
        minutes: float | None = None,
        fresh: bool = False,
    ):
        """Evolve the rule by which an agent that counts and plans explores finite tasks.

        Evolution strategies (Salimans et al. 2017). Run it again to go on where it stopped.

        Args:
            out: checkpoint folder.
            config: what to train.
            minutes: stop after this many minutes of training, even if generations are left.
            fresh: delete the checkpoints in that folder first.
        """
        print(f"agent: {evolve(config, out, fresh, minutes=minutes)}")

    _parse(command, arguments, "meta-train evolve")


def _meta_test(arguments: Sequence[str]) -> int:
    from typing import Literal

    if any(word.partition("=")[0] == "--suite" for word in arguments):
        return _meta_test_suite(arguments)

    import tyro

    from gla.agents.gla import parse_ask
    from gla.benchmarks.metatest import meta_test_to_file
    from gla.benchmarks.runner import MetaTestConfig
    from gla.benchmarks.statistics import best_null, judge

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        agent: str,
        config: Annotated[MetaTestConfig, tyro.conf.arg(name="")],
        which: Literal["latest", "best"] = "latest",
        ask: tuple[str, ...] = (),
        batch: int = 0,
        fresh: bool = False,
    ):
        """Test an agent, its reward-masked twin and the null controllers on one environment.

        `gla meta-test OUT --agent AGENT --suite NAME` tests it on all environments of a
        leaderboard suite; with --help it says how.

        Args:
            out: results file to write (JSON); kept if it already holds this very test.
            agent: checkpoint folder, module:factory of an agent of your own, or another way to
                name one (docs/agents.md).
            config: on what and for how long.
            which: of a checkpoint folder, the latest weights or those of the best validation.
            ask: for how much improvement, of an agent trained with conditions: gap=32 (updates
                ahead), return=0.5 (mean normalised reward per step), or both.
            batch: lifetimes that run at once; 0 is all of them. Fewer need less memory.
            fresh: replace a results file that is there.
        """
        results = meta_test_to_file(
            agent, config, Path(out), fresh, which=which, ask=parse_ask(ask), batch=batch or None
        )
        if results.of_kind("agent"):
            print(judge(results).sentence)
        else:
            floor = best_null(results)
            print(f"{results.environment}: the best null controller is {floor.name}.")

    _parse(command, arguments, "meta-test")
    return 0


def _meta_test_suite(arguments: Sequence[str]) -> int:
    from typing import Literal

    import tyro

    from gla.agents.gla import parse_ask
    from gla.benchmarks import suites
    from gla.benchmarks.statistics import judge
    from gla.benchmarks.suite_run import SuiteRunConfig, run_suite

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        agent: str,
        suite: str,
        config: Annotated[SuiteRunConfig, tyro.conf.arg(name="")],
        which: Literal["latest", "best"] = "latest",
        ask: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> int:
        read = run_suite(
            agent, suites.find(suite), out, config, which, parse_ask(ask), fresh
        )  # fmt: skip
        for results in read.results.values():
            if results.of_kind("agent"):
                print(judge(results).sentence)
        for environment, why in read.submission.failures.items():
            print(f"gla: {environment} failed: {why}", file=sys.stderr)
        for problem in read.problems:
            print(f"gla: {problem}", file=sys.stderr)
        print(f"submission: {read.folder} ({len(read.results)} of {len(read.suite.tasks)})")
        return 0 if read.complete else 1

    command.__doc__ = f"""Test an agent and its reward-masked twin on all environments of a suite.

        Run it again to go on: what is finished stays, what failed is tried again.

        Args:
            out: folder of the submission.
            agent: checkpoint folder, module:factory of an agent of your own, or another way to
                name one (docs/agents.md); `nulls` runs the null controllers alone.
            suite: one of {", ".join(suites.SUITES)}.
            config: how; none of it changes what the agent meets.
            which: of a checkpoint folder, the latest weights or those of the best validation.
            ask: for how much improvement, of an agent trained with conditions.
            fresh: delete the submission in that folder first.
        """
    return _parse(command, arguments, "meta-test")


def _leaderboard(arguments: Sequence[str]) -> int:
    import tyro

    paths_type = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH")]

    def build(paths: paths_type, out: str = "leaderboard", baselines: bool = True) -> int:
        """Build the leaderboard, a static site of one folder.

        Args:
            paths: submission folders, folders that hold them, or results files.
            out: folder of the site.
            baselines: add the submissions that come with this package, of the same suites.
        """
        from gla.benchmarks import leaderboard

        problems = leaderboard.build(paths, out, baselines=baselines)
        print(f"leaderboard: {Path(out).absolute() / 'index.html'}")
        for problem in problems:
            print(f"gla: left out: {problem}", file=sys.stderr)
        return 1 if problems else 0

    def check(paths: paths_type, rerun: int = 0, agent: str | None = None) -> int:
        """Check submissions as a leaderboard does; status 0 if all are sound and complete.

        Args:
            paths: submission folders, folders that hold them, or results files.
            rerun: lifetimes of each environment to run again, to see whether the agent does what
                was submitted; 0 runs nothing.
            agent: how the agent is loaded here, if not as its submission says.
        """
        from gla.benchmarks import leaderboard, submissions

        found = leaderboard.check(paths)
        print("\n".join(one.text for one in found))
        good = all(one.accepted for one in found)
        for path in paths if rerun else ():
            from gla.benchmarks.rerun import rerun as run_again

            lines = run_again(submissions.read(path), rerun, agent)
            print("\n".join(lines) or f"{path}: what was run again is what was submitted")
            good = good and not lines
        return 0 if good else 1

    return _pick({"build": build, "check": check}, arguments, "leaderboard")


def _figures(arguments: Sequence[str]) -> int:
    from gla.benchmarks.figures import figures

    return _parse(figures, arguments, "figures")


def _watch(arguments: Sequence[str]):
    from typing import Literal

    import tyro

    from gla.agents.gla import parse_ask
    from gla.benchmarks.watch import WatchConfig, watch

    def command(
        agent: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="AGENT")],
        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")],
        config: Annotated[WatchConfig, tyro.conf.arg(name="")],
        out: str = "watch.gif",
        which: Literal["latest", "best"] = "latest",
        ask: tuple[str, ...] = (),
    ):
        """Film one lifetime of an agent: its first and its last episode side by side.

        Args:
            agent: checkpoint folder, module:factory of an agent of your own, or another way to
                name one (docs/agents.md).
            environment: id of an environment that can be drawn.
            config: which lifetime, and for how long.
            out: film to write, .gif or .mp4.
            which: of a checkpoint folder, the latest weights or those of the best validation.
            ask: for how much improvement, of an agent trained with conditions.
        """
        print(watch(agent, environment, out, config, which, parse_ask(ask)).sentence)

    _parse(command, arguments, "watch")


def _envs(arguments: Sequence[str]) -> int:
    import tyro

    flag = tyro.conf.FlagCreatePairsOff

    def list_(
        word: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[WORD]")] = "",
        domain: Annotated[str, tyro.conf.arg(metavar="DOMAIN")] = "",
        kind: Annotated[str, tyro.conf.arg(metavar="KIND")] = "",
        actions: Annotated[str, tyro.conf.arg(metavar="KIND")] = "",
        family: Annotated[bool, flag] = False,
    ) -> int:
        """List the registered environments with their reference scores.

        Args:
            word: only those with this word in the id, the source or the description.
            domain: only those of one domain, such as brax.
            kind: only functional (pure JAX) or host (C simulators) ones.
            actions: only those with continuous or discrete actions.
            family: only families, whose task seeds give different tasks.
        """
        from gla.envs import catalog

        specs = catalog.select(word, domain, kind, actions, family)
        print(catalog.listing(specs))
        print(
            f"\n{len(specs)} environment{'' if len(specs) == 1 else 's'}. "
            "Each is also there as gla/<Name>-Projected-v0.\n"
            "null: return of the best controller that never looks (score 0); expert: score 1.\n"
            "All about one of them: gla envs show ID"
        )
        return 0

    def show(
        id: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")],
        frame: Annotated[str, tyro.conf.arg(metavar="PNG")] = "",
        no_frame: Annotated[bool, flag] = False,
        steps: int = 0,
        task_seed: int = 0,
    ) -> int:
        """Say everything about an environment, and show a picture of it.

        Args:
            id: its id, such as gla/Pendulum-v0.
            frame: PNG file for the picture; without it, a terminal with colours shows it.
            no_frame: no picture.
            steps: random actions before the picture.
            task_seed: of a family, the task in the picture.
        """
        from gla.envs import catalog

        print(catalog.describe(id, _columns()))
        if not no_frame and (frame or _shows_pictures()):
            _picture(id, frame, steps, task_seed)
        return 0

    def check(
        environment: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")],
    ) -> int:
        """Check that an environment keeps the rules that agents rely on.

        Args:
            environment: an id, or module:factory of an environment of your own.
        """
        return _check(environment)

    def docs(
        folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
        no_frames: Annotated[bool, flag] = False,
    ) -> int:
        """Write one page per domain, with a picture of each environment.

        Args:
            folder: of the documentation; gets environments/ and images/environments/.
            no_frames: draw no pictures; those that are there stay.
        """
        from gla.envs.catalog_pages import write_pages

        for line in write_pages(folder, pictures=not no_frames):
            print(f"no picture of {line}")
        print(f"pages: {Path(folder).absolute() / 'environments'}")
        return 0

    commands: dict[str, Callable[..., int]] = {
        "list": list_,
        "show": show,
        "check": check,
        "docs": docs,
    }
    return _pick(commands, arguments or ("list",), "envs")


def _columns() -> int:
    """Return how wide text should be: as the terminal, within reason."""
    return min(max(shutil.get_terminal_size().columns, 60), 100)


def _shows_pictures() -> bool:
    """Return whether standard output is a terminal in which coloured blocks make a picture."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb"
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    return sys.stdout.isatty() and not plain and encoding == "utf8"


def _picture(id: str, file: str, steps: int, task_seed: int):
    """Save a picture of an environment, or show it; say why where there is none."""
    from gla.envs import catalog, drawing

    try:
        picture = catalog.frame(id, task_seed, steps)
    except GlaError as error:
        if file:
            raise
        print(f"\nno picture: {error}")
        return
    if file:
        print(f"\npicture: {drawing.save(picture, file)}")
    else:
        full = os.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        print(f"\n{drawing.half_blocks(picture, true_colour=full)}")


def _check(environment: str) -> int:
    """Run the conformance checks on an id or on `module:factory`."""
    from gla.envs import registry, testing

    # Your own module may lie in the folder where the command is typed.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides no installed package
    name = environment.removeprefix("gla:")
    target = registry.load(name) if ":" in name else registry.find(name).full_id
    try:
        report = testing.check(target)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise GlaError(
            f"{environment} cannot be called: {error}",
            "an environment, or a factory that needs no arguments",
        ) from error
    notes = " " * (11 + max(len(check.name) for check in report.checks))
    for line in str(report).splitlines():
        print(textwrap.fill(line, _columns(), subsequent_indent=notes, break_on_hyphens=False))
    return 0 if report.passed else 1


def _histories(arguments: Sequence[str]) -> int:
    import tyro

    from gla.histories import HistoryStore
    from gla.histories.importing import ImportConfig

    flag = tyro.conf.FlagCreatePairsOff

    def describe(
        path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
    ) -> int:
        """Say what a history store holds.

        Args:
            path: folder of the store.
        """
        print(HistoryStore.open(path).describe())
        return 0

    def verify(
        path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
        repair: bool = False,
    ) -> int:
        """Read every chunk of a history store and compare checksums.

        Args:
            path: folder of the store.
            repair: forget damaged blocks, so that `gla collect` makes them again.
        """
        store = HistoryStore.open(path)
        problems = store.verify(repair)
        for problem in problems:
            print(f"gla: damaged: {problem}", file=sys.stderr)
        sound = len(store.complete_blocks()) - (0 if repair else len(problems))
        print(f"{path}: {sound} of {store.meta.blocks} blocks complete and sound")
        return 1 if problems else 0

    def merge(
        paths: Annotated[
            tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FOLDER... OUT")
        ],
        fresh: Annotated[bool, flag] = False,
    ) -> int:
        """Copy the runs of several complete stores of equal sizes into a new one.

        Args:
            paths: folders of the stores, and last that of the new one.
            fresh: delete a store that is there first.
        """
        from gla.histories.merging import merge as merge_stores

        if len(paths) < 3:
            raise GlaError(
                f"{len(paths)} folder{'s' * (len(paths) != 1)} to merge",
                "gla histories merge FOLDER FOLDER... OUT",
            )
        print(merge_stores(paths[:-1], paths[-1], fresh).describe())
        return 0

    def plot(
        path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
        file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE")],
    ) -> int:
        """Draw returns over updates, and the scores of streams.

        Args:
            path: folder of the store.
            file: picture to write, .png or .svg.
        """
        from gla.histories.plotting import plot as plot_store

        print(f"picture: {plot_store(HistoryStore.open(path), file)}")
        return 0

    def export(
        path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        format: Annotated[str, tyro.conf.arg(metavar="{npz,hdf5,minari}")] = "",
        fresh: Annotated[bool, flag] = False,
    ) -> int:
        """Write a store for others to read: npz, HDF5 in D4RL's layout, Minari.

        Args:
            path: folder of the store.
            out: name.npz, name.hdf5, or for Minari a new folder such as linear-v0, or
                minari:linear-v0.
            format: by default what the name says.
            fresh: replace an earlier export.
        """
        from gla.histories.exporting import export as export_store

        written = export_store(HistoryStore.open(path), out, format or None, fresh)
        print(f"exported: {written}")
        return 0

    def import_(
        paths: Annotated[
            tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="SOURCE... OUT")
        ],
        config: Annotated[ImportConfig, tyro.conf.arg(name="")],
        fresh: Annotated[bool, flag] = False,
    ) -> int:
        """Make a store of files that were collected elsewhere, or exported.

        Args:
            paths: .npz or .hdf5 files, folders of Minari data sets or minari:NAME, in order; and
                last the folder of the store.
            config: how to cut the steps.
            fresh: delete a store that is there first.
        """
        from gla.histories import record
        from gla.histories.importing import make_importer

        if len(paths) < 2:
            raise GlaError("import lacks a source or a destination", "SOURCE... OUT")
        maker = make_importer(paths[:-1], config)
        print(record(maker, paths[-1], fresh).describe())
        if maker.left_over:
            print(f"  left out: {maker.left_over:,} steps at the end, which fill no update")
        return 0

    commands: dict[str, Callable[..., int]] = {
        "describe": describe,
        "verify": verify,
        "plot": plot,
        "merge": merge,
        "export": export,
        "import": import_,
    }
    if arguments and arguments[0] in ("-h", "--help"):
        for name, command in commands.items():
            print(f"gla histories {name:<9} {(command.__doc__ or '').partition(chr(10))[0]}")
        return 0
    return _pick(commands, arguments, "histories")


def _gpicl(arguments: Sequence[str]) -> int:
    from gla.benchmarks.gpicl_commands import COMMANDS

    return _pick(COMMANDS, arguments, "gpicl")


def _models(arguments: Sequence[str]) -> int:
    from typing import Literal

    import tyro

    from gla import pretrained

    def listed() -> int:
        """List the agents that come with gla."""
        for name in pretrained.names():
            title = pretrained.card(name).partition("\n")[0].removeprefix(f"# {name}: ")
            print(f"{name:<24}{title}")
        return 0

    def show(name: tyro.conf.Positional[str]) -> int:
        """Show the model card of an agent that comes with gla.

        Args:
            name: which.
        """
        print(pretrained.card(name), end="")
        return 0

    def export(
        agent: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="AGENT")],
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        which: Literal["latest", "best"] = "latest",
    ) -> int:
        """Write what acts of a trained agent into a small folder: weights in half precision.

        Args:
            agent: checkpoint folder.
            out: folder to make.
            which: the latest weights or those of the best validation.
        """
        made = pretrained.export(agent, out, which)
        size = sum(file.stat().st_size for file in made.iterdir()) / 1e6
        print(f"{made}: {size:.2f} MB; it is an agent like any other: --agent {made}")
        return 0

    return _pick({"list": listed, "show": show, "export": export}, arguments, "models")


def _references(arguments: Sequence[str]):
    import tyro

    from gla.agents.backends import use_all_cores
    from gla.benchmarks import references, suites

    def command(
        ids: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ID")] = (),
        suite: str | None = None,
        out: str = "envs/references.json",
    ):
        """Measure null and expert reference scores (mostly a long PPO run each) and store them.

        Args:
            ids: environment ids.
            suite: all ids of a leaderboard suite as well.
            out: references file to update.
        """
        everything = [*ids, *(suites.find(suite).environments if suite is not None else ())]
        if not everything:
            raise GlaError("no environment was named", "gla references ID... or --suite NAME")
        use_all_cores()
        for id in everything:
            references.update_file(Path(out), id, references.measure(id))
            print(f"{id}: stored in {out}")

    _parse(command, arguments, "references")


def _throughput(arguments: Sequence[str]):
    import tyro

    from gla.benchmarks import throughput

    known, default = ", ".join(throughput.COMPARISONS), throughput.ThroughputConfig()

    def command(
        names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = (),
        config: tyro.conf.OmitArgPrefixes[throughput.ThroughputConfig] = default,
    ):
        throughput.main(names, config)

    command.__doc__ = f"""Time environments, PPO and models beside a peer, interleaved, as ratios.

        Args:
            names: comparisons, all of them by default: {known}.
            config: how to measure, and where to write.
        """
    _parse(command, arguments, "throughput")


def _pick(commands: dict[str, Callable[..., int]], arguments: Sequence[str], name: str) -> int:
    """Run one of several second-level commands."""
    listed = " or ".join(f"gla {name} {word}" for word in commands)
    if arguments and arguments[0] in ("-h", "--help"):
        width = max(map(len, commands))
        for word, command in commands.items():
            summary = (command.__doc__ or "").partition("\n")[0]
            print(f"gla {name} {word:<{width}}  {summary}")
        return 0
    if not arguments or arguments[0] not in commands:
        word = arguments[0] if arguments else ""
        raise GlaError(f"gla {name} knows no {word!r}", listed)
    return _parse(commands[arguments[0]], arguments[1:], f"{name} {arguments[0]}")


_COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int | None], str]] = {
    "quickstart": (_quickstart, "the four verbs in a row, small, then a report"),
    "collect": (_collect, "environments x seeds -> PPO -> learning histories"),
    "meta-train": (_meta_train, "learning histories -> sequence model -> checkpoint"),
    "meta-test": (_meta_test, "an agent x an environment -> lifetimes -> results file"),
    "leaderboard": (_leaderboard, "results files -> a static site"),
    "figures": (_figures, "the figures of the GLA paper, remade from stored results"),
    "models": (_models, "agents that come with gla; export one of your own"),
    "watch": (_watch, "film an agent's first and last episode of a lifetime"),
    "envs": (_envs, "list, show and check the registered environments"),
    "histories": (_histories, "describe, verify, plot, merge, export or import histories"),
    "gpicl": (_gpicl, "supervised learning to learn: train, test, table 1, figures"),
    "throughput": (_throughput, "how fast environments, PPO and models are, beside peers"),
    "references": (_references, "measure null and expert scores of an environment"),
}


def _usage() -> str:
    lines = ["usage: gla COMMAND [OPTIONS]   (gla COMMAND --help for its options)", ""]
    lines += [f"  {name:<12} {text}" for name, (_, text) in _COMMANDS.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 found problems, 2 bad input.

    Args:
        arguments: words after `gla` (default: those of this process).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        from gla import __version__

        print(f"gla {__version__}")
        return 0
    try:
        if words[0] not in _COMMANDS:
            raise GlaError(
                f"there is no command {words[0]!r}{near_matches(words[0], _COMMANDS)}",
                "one of " + ", ".join(_COMMANDS),
            )
        return _COMMANDS[words[0]][0](words[1:]) or 0
    except GlaError as error:
        print(f"gla: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gla: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def run():
    """Entry point of the console script."""
    raise SystemExit(main())


if __name__ == "__main__":
    run()
