"""Several boards of one type as one device: :class:`Fleet`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ..errors import DeviceError
from ..older import Self
from ..onboard.child import Child
from ..onboard.engines.base import Engine
from ..onboard.facts import Machine
from ..onboard.protocol import Job, JobVariant, MeasureJob, MeasureResult, Notify, R, VariantResult
from ..onboard.rows import Rows, RowWriter
from ..onboard.scratch import Scratch
from .base import Device, ignore
from .looking import look_at
from .transport import Lost


class Fleet:
    """Boards of one type that share the evaluation of samples. See :class:`ncnnkit.device.Device`.

    The first board is the one that is timed, and everything but the evaluation runs there. Every board also evaluates
    the last sample. If their outputs for it are not bitwise equal, the boards are not of the same type: an error.
    If a board is lost, the others evaluate its samples; the first board cannot be replaced.

    Args:
        boards: at least two.
        name: the name that the user gave them.
    """

    def __init__(self, boards: Sequence[Device], name: str) -> None:
        self.boards = list(boards)
        self.name, self.address = name, " ".join(board.address for board in boards)
        self._stack, self._alike = ExitStack(), False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for board in self.boards:
                stack.enter_context(board)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cancel(self) -> None:
        with ThreadPoolExecutor(len(self.boards)) as pool:
            list(pool.map(lambda board: board.cancel(), self.boards))

    def child(self) -> Child:
        return self.boards[0].child()

    def clean(self) -> None:
        for board in self.boards:
            board.clean()

    def lacks(self, engine: Engine) -> str:
        reasons = (board.lacks(engine) for board in self.boards)
        return next((reason for reason in reasons if reason), "")

    def put(self, files: Sequence[Path]) -> list[str]:
        return self.boards[0].put(files)

    def run_job(self, job: Job[R], notify: Notify = ignore) -> R:
        first = self.boards[0]
        shares = divided(len(Rows(job.inputs[0])), len(self.boards)) if isinstance(job, MeasureJob) else []
        if not isinstance(job, MeasureJob) or len(shares) < 2:
            return first.run_job(job, notify)
        self._check_alike()
        with Scratch() as name:
            jobs = [_part(job, share, Path(name) / str(number)) for number, share in enumerate(shares)]
            # Only the first board times. The others evaluate their samples.
            jobs[1:] = [replace(each, rounds=0, sustained=0.0, fix_clocks=False) for each in jobs[1:]]
            found = self._run(jobs, notify)
            return cast(R, merged(found, shares, Path(job.folder)))

    def _run(self, jobs: Sequence[MeasureJob], notify: Notify) -> list[Part]:
        """Run each job on a board, the first on the first board. The job of a lost board runs on another one."""
        waiting, alive, found = dict(enumerate(jobs)), list(self.boards), dict[int, Part]()
        lost: dict[Device, Lost] = {}

        def run(board: Device, number: int) -> None:
            try:
                result = board.run_job(waiting[number], notify if not number else ignore)
                found[number] = Part(board.name, result)
            except Lost as error:
                lost[board] = error

        with ThreadPoolExecutor(len(alive)) as pool:
            try:
                while waiting:
                    list(pool.map(run, alive, list(waiting)))
                    waiting = {number: job for number, job in waiting.items() if number not in found}
                    if 0 in waiting:
                        raise lost[self.boards[0]]
                    alive = [board for board in alive if board not in lost]
                    if waiting and not alive:
                        raise next(iter(lost.values()))
            except BaseException:
                self.cancel()  # do not wait for the others
                raise
        return [found[number] for number in range(len(jobs))]

    def _check_alike(self) -> None:
        """Compare what the boards are, once. Raises DeviceError."""
        if self._alike:
            return
        with ThreadPoolExecutor(len(self.boards)) as pool:
            first, *others = pool.map(lambda board: kind(look_at(board)), self.boards)
        for board, found in zip(self.boards[1:], others):
            for what, value in found.items():
                if value != first[what]:
                    text = f"it is not of the same type as {self.boards[0].name}: {what} is {value}, not {first[what]}"
                    raise DeviceError(text, where=board.name, hint="name the boards one by one, each with --on")
        self._alike = True


@dataclass(frozen=True)
class Part:
    """The result of a part of a job, and the name of its board."""

    board: str
    result: MeasureResult


def kind(machine: Machine) -> Mapping[str, str]:
    """The facts about a board that decide what it computes, as texts."""
    return {
        "the board": machine.board.board or machine.board.soc or machine.machine,
        "the CPU": machine.cpu,
        "the list of CPU features": " ".join(machine.cpu_features),
        "the number of cores": str(machine.cores),
        "ncnn": machine.ncnn,
        "the list of GPUs": ", ".join(f"{gpu.name} with driver {gpu.driver}" for gpu in machine.vulkan) or "empty",
    }


def divided(samples: int, boards: int) -> list[range]:
    """The samples for each board in order, without the last one, which every board evaluates; fewer for few samples.

    Example:
        >>> divided(8, 3)
        [range(0, 3), range(3, 5), range(5, 7)]
    """
    count = max(1, min(boards, samples - 1))
    each, more = divmod(max(samples - 1, 0), count)
    starts = [number * each + min(number, more) for number in range(count + 1)]
    return [range(start, end) for start, end in itertools.pairwise(starts)]


def _part(job: MeasureJob, share: range, folder: Path) -> MeasureJob:
    """The job with these samples and the last one. It writes to a folder of its own."""
    written: dict[str, str] = {}
    folder.mkdir()

    def part(path: str) -> str:
        if path not in written:
            rows = Rows(path)
            with RowWriter(folder / f"input-{len(written)}.npy") as file:
                for index in (*share, len(rows) - 1):
                    file.append(rows[index])
            written[path] = file.path
        return written[path]

    def fed(variant: JobVariant) -> JobVariant:
        return replace(variant, inputs=list(map(part, variant.inputs)))

    variants, inputs = list(map(fed, job.variants)), list(map(part, job.inputs))
    return replace(job, variants=variants, inputs=inputs, folder=str(folder))


def merged(parts: Sequence[Part], shares: Sequence[range], folder: Path) -> MeasureResult:
    """The result of the first board, with the outputs of all boards.

    Args:
        parts: the result of each board. The last output of each is that of the sample that every board evaluates.
        shares: the other samples of each.
        folder: where files with all outputs are written.

    Raises:
        DeviceError: a board returned other outputs than the first, or none.
    """
    first = parts[0].result
    for number, variant in enumerate(first.variants):
        versions = [_version(part, variant.name) for part in parts]
        failed = next(((part, each) for part, each in zip(parts, versions) if each.status == "crashed"), None)
        if failed is not None:
            part, found = failed
            reason = found.reason if found is variant else f"on {part.board}: {found.reason}"
            variant.status, variant.reason, variant.outputs = "crashed", reason, {}
            continue
        for count, blob in enumerate(list(variant.outputs)):
            rows = [_rows(part, version, blob) for part, version in zip(parts, versions)]
            path = folder / f"merged-{number}-{count}.npy"
            variant.outputs[blob] = _joined(rows, parts, shares, variant.name, path)
    return first


def _version(part: Part, name: str) -> VariantResult:
    """The result of a variant. Raises DeviceError."""
    for found in part.result.variants:
        if found.name == name:
            return found
    raise DeviceError(f"returned no result for {name}", where=part.board)


def _rows(part: Part, version: VariantResult, blob: str) -> Rows:
    if blob not in version.outputs:
        raise DeviceError(f"{version.name} has no output {blob!r} there", where=part.board)
    return Rows(version.outputs[blob])


def _joined(rows: Sequence[Rows], parts: Sequence[Part], shares: Sequence[range], variant: str, path: Path) -> str:
    """Write the outputs of all samples to one file, up to the first board that was too slow to evaluate all of its."""
    whole = [len(found) == len(share) + 1 for found, share in zip(rows, shares)]
    last = rows[0][len(rows[0]) - 1]
    with RowWriter(path) as file:
        for found, share, part, complete in zip(rows, shares, parts, whole):
            if complete and whole[0] and found[len(found) - 1].tobytes() != last.tobytes():
                what = f"{variant} has other outputs there than on {parts[0].board}, for the same sample"
                hint = "the boards are not of the same type: name them one by one, each with --on"
                raise DeviceError(what, where=part.board, hint=hint)
            for index in range(min(len(share), len(found))):
                file.append(found[index])
            if not complete:
                break
        else:
            file.append(last)
    return file.path
