"""The command line, `gla`: the front door to every room.

Each subcommand imports what it needs when it is called, so that `gla --help` is quick. Annotations
are evaluated where they stand (no `from __future__ import annotations`), because the commands that
tyro reads name classes imported inside functions.
"""

import contextlib
import functools
import io
import os
import sys
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

    from gla.agents.collect import CollectConfig, collect

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        config: Annotated[CollectConfig, tyro.conf.arg(name="")],
        fresh: bool = False,
    ):
        """Collect learning histories with PPO; run again to go on where it stopped.

        Args:
            out: folder of the history store.
            config: what to collect.
            fresh: delete the store in that folder first.
        """
        print(collect(config, out, fresh).describe())

    _parse(command, arguments, "collect")


def _meta_train(arguments: Sequence[str]):
    import tyro

    from gla.training import MetaTrainConfig, meta_train

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        config: Annotated[MetaTrainConfig, tyro.conf.arg(name="")],
        minutes: float | None = None,
        fresh: bool = False,
    ):
        """Meta-train an agent on histories; run again to go on from the last checkpoint.

        Args:
            out: checkpoint folder.
            config: what to train.
            minutes: stop after this many minutes of training, even if steps are left.
            fresh: delete the checkpoints in that folder first.
        """
        print(f"agent: {meta_train(config, out, fresh, minutes=minutes)}")

    _parse(command, arguments, "meta-train")


def _meta_test(arguments: Sequence[str]):
    import tyro

    from gla.benchmarks.metatest import meta_test_to_file
    from gla.benchmarks.runner import MetaTestConfig
    from gla.benchmarks.statistics import judge

    def command(
        out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")],
        agent: str,
        config: Annotated[MetaTestConfig, tyro.conf.arg(name="")],
        fresh: bool = False,
    ):
        """Test an agent, its reward-masked twin and the null controllers on one environment.

        Args:
            out: results file to write (JSON); kept if it already holds this very test.
            agent: checkpoint folder, or module:factory of an agent of your own.
            config: on what and for how long.
            fresh: replace a results file that is there.
        """
        results = meta_test_to_file(agent, config, Path(out), fresh)
        print(judge(results).sentence)

    _parse(command, arguments, "meta-test")


def _leaderboard(arguments: Sequence[str]) -> int:
    import tyro

    from gla.benchmarks.leaderboard import build

    if not arguments or arguments[0] != "build":
        word = arguments[0] if arguments else ""
        if word in ("-h", "--help"):
            print("gla leaderboard build RESULTS... [--out FOLDER]: results files -> static site")
            return 0
        raise GlaError(
            f"gla leaderboard knows no {word!r}", "gla leaderboard build RESULTS... --out FOLDER"
        )
    problems: list[str] = []

    def command(
        results: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RESULTS")],
        out: str = "leaderboard",
    ):
        """Build the leaderboard, a static site, from results files.

        Args:
            results: results files of `gla meta-test`.
            out: folder of the site.
        """
        problems.extend(build([Path(r) for r in results], Path(out)))
        print(f"leaderboard: {Path(out).absolute() / 'index.html'}")

    _parse(command, arguments[1:], "leaderboard build")
    for problem in problems:
        print(f"gla: left out: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _envs(arguments: Sequence[str]):
    from gla.envs import registry

    if arguments and arguments[0] not in ("list", "-h", "--help"):
        raise GlaError(f"gla envs knows no {arguments[0]!r}", "gla envs list")
    if arguments and arguments[0] != "list":
        print("gla envs list: every registered environment with its reference scores")
        return
    print(f"{'id':<30} {'kind':<11} {'actions':<11} {'horizon':>7} {'null':>9} {'expert':>9}")
    for spec in registry.TABLE.values():
        stored = registry.references(spec.id)
        scores = [f"{stored[x]['return']:.1f}" if x in stored else "-" for x in ("null", "expert")]
        print(
            f"{spec.id:<30} {spec.kind:<11} {spec.action_kind:<11} {spec.horizon:>7} "
            f"{scores[0]:>9} {scores[1]:>9}"
        )
    print(
        "Each also exists as gla/<Name>-Projected-v0; null is the best controller that never looks."
    )


def _histories(arguments: Sequence[str]) -> int:
    import tyro

    from gla.histories import HistoryStore

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

    return _pick({"describe": describe, "verify": verify}, arguments, "histories")


def _references(arguments: Sequence[str]):
    import tyro

    from gla.benchmarks import references

    def command(
        ids: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="ID")],
        out: str = "envs/references.json",
    ):
        """Measure null and expert reference scores (a long PPO run each) and store them.

        Args:
            ids: environment ids.
            out: references file to update.
        """
        for id in ids:
            references.update_file(Path(out), id, references.measure(id))
            print(f"{id}: stored in {out}")

    _parse(command, arguments, "references")


def _pick(commands: dict[str, Callable[..., int]], arguments: Sequence[str], name: str) -> int:
    """Run one of several second-level commands."""
    listed = " or ".join(f"gla {name} {word}" for word in commands)
    if arguments and arguments[0] in ("-h", "--help"):
        print(listed)
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
    "envs": (_envs, "the registered environments and their reference scores"),
    "histories": (_histories, "describe or verify a history store"),
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
