"""Maps a function over batches of work, here or on a Dask cluster: :func:`map_batches` and :func:`open_workers`.

The interface is :class:`concurrent.futures.Executor`. A function and its arguments must be picklable for workers in
other processes. What a function returns must be a statistic that merges exactly, so that the result does not depend on
how the work was divided.
"""

from __future__ import annotations

import functools
import logging
import math
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from .errors import DeviceError, RecipeError, RuntimeFailure
from .older import Self
from .onboard.process import available_cores, die_with_parent

R = TypeVar("R")

AHEAD = 2  # batches for each worker that are begun or finished before the oldest one is; this bounds the memory
TRIES = 3  # how often a batch runs whose workers are lost
MOST = 32  # samples in a batch: little work is lost with a worker, and little memory is needed to send it
SHARE = 4  # batches for each worker, if there are enough samples: the workers finish at about the same time
PATIENCE = 60.0  # seconds to wait for a scheduler, and for its workers
LOCAL = "local"
"""The scheduler that stands for a Dask cluster on this machine."""

SCHEMES = ("tcp://", "tls://", "ws://", "wss://")


class WorkerLost(Exception):
    """The process that worked on a batch has died. The batch may run again."""


class Workers:
    """Where batches run. Use it in a ``with`` block.

    Args:
        executor: runs functions. It is not shut down here.
        count: how many functions it runs at the same time.
        remote: whether it runs them in other processes, which may be on other machines.

    Attributes:
        token: identifies what these workers started. It changes when they are stopped.
        name: what they are, for the user.
        dashboard: the address of a page that shows what they do; empty if there is none.
    """

    name = "processes on this machine"
    dashboard = ""

    def __init__(self, executor: Executor, count: int, *, remote: bool) -> None:
        self.executor, self._count, self.remote = executor, count, remote
        self.token = uuid.uuid4().hex
        self._enders: list[Callable[[str], None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt:
            self.interrupt()
        self.close()

    @property
    def count(self) -> int:
        """How many batches run at the same time."""
        return self._count

    @property
    def said(self) -> str:
        """What they are, and where to watch them, for the user."""
        return f"{self.name}, dashboard at {self.dashboard}" if self.dashboard else self.name

    def share(self, value: Any, *, everywhere: bool = True) -> Any:
        """An argument for :func:`map_batches` that stands for ``value`` and is sent once to each worker.

        Args:
            everywhere: whether so many batches have this argument that every worker needs it.
        """
        return value

    def ends(self, function: Callable[[str], None]) -> None:
        """Have a function of a module called with :attr:`token` wherever batches ran, when the workers are stopped."""
        if function not in self._enders:
            self._enders.append(function)

    def stop(self) -> None:
        """End what the workers started, so that no batch goes on. They can be used again."""
        token, self.token = self.token, uuid.uuid4().hex
        for function in self._enders:
            function(token)

    def interrupt(self) -> None:
        """Stop after Ctrl-C, when there is no time to wait for workers that can be killed."""
        self.stop()

    def close(self) -> None:
        """Stop, and release the workers."""
        self.stop()


class _Here(Workers):
    """Threads of this process. They wait for the serving processes that they start."""

    def __init__(self, count: int) -> None:
        super().__init__(ThreadPoolExecutor(count), count, remote=False)

    def close(self) -> None:
        super().close()
        self.executor.shutdown(cancel_futures=True)


class _Dask(Workers):
    """The workers of a Dask scheduler."""

    def __init__(self, client: Any, cluster: Any, name: str) -> None:
        super().__init__(client.get_executor(pure=False), 0, remote=True)
        self._client, self._cluster, self._ended = client, cluster, False
        self.name, self.dashboard = name, client.dashboard_link or ""

    @property
    def count(self) -> int:
        """The threads of all workers that there are now; a cluster may grow and shrink."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def share(self, value: Any, *, everywhere: bool = True) -> Any:
        # A task and not scattered data: if the only worker that holds it is lost, Dask can run a task again.
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is large: that is why it is sent once
            future = self._client.submit(_itself, value, pure=False)
        if everywhere:
            # Dask prefers the worker that has the value. If only one has it, that worker gets most of the batches.
            self._client.replicate(future)
        return future

    def stop(self) -> None:
        token, self.token = self.token, uuid.uuid4().hex
        for function in self._enders if not self._ended else ():
            with suppress(Exception):  # workers that are gone have ended already
                self._client.run(function, token)

    def interrupt(self) -> None:
        if self._cluster is None:
            self.stop()
        elif not self._ended:
            self._ended = True
            _end_at_once(self._client, self._cluster)

    def close(self) -> None:
        super().close()
        for each in (self._client, self._cluster) if not self._ended else ():
            if each is not None:
                with suppress(Exception):
                    each.close(timeout=PATIENCE)


def _end_at_once(client: Any, cluster: Any) -> None:
    """Kill the workers of a cluster on this machine. What they started ends with them.

    Dask asks each worker to end, which takes seconds if it is busy or has just been started. So that is done in a
    thread for which the end of this process does not wait.
    """
    cluster.shutdown_on_close = False  # otherwise Dask closes it when this process ends, and waits
    for nanny in list(cluster.workers.values()):
        nanny.auto_restart = False
    for child in multiprocessing.active_children():
        if child.name.startswith(_WORKER):
            child.kill()

    def close() -> None:
        for each in filter(None, (client, cluster)):
            with suppress(Exception):
                each.close(timeout=PATIENCE)

    threading.Thread(target=close, daemon=True).start()


_WORKER = "Dask Worker process"
"""The beginning of the names of the processes that Dask starts here."""


def dask_setup(worker: Any) -> None:
    """Called by Dask in each worker of a cluster that is started here (the option ``preload`` of a worker).

    Ctrl-C goes to all processes of a terminal, but only the command handles it: it ends its workers. If it is killed,
    the kernel ends them. Until then they would log that their scheduler is gone.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def _itself(value: Any) -> Any:
    return value


def check_scheduler(scheduler: str) -> None:
    """Raise RecipeError if this cannot be a scheduler."""
    if scheduler in ("", LOCAL) or (scheduler.startswith(SCHEMES) and scheduler.partition("://")[2]):
        return
    raise RecipeError(f"unknown scheduler {scheduler!r}", hint=f"{LOCAL}, or an address such as tcp://10.0.0.5:8786")


@contextmanager
def open_workers(scheduler: str = "", count: int | None = None) -> Iterator[Workers]:
    """The workers of a scheduler, in a ``with`` block.

    Args:
        scheduler: empty for processes on this machine; ``local`` for a Dask cluster on this machine; the address of a
            Dask scheduler, such as ``tcp://10.0.0.5:8786``, for its workers.
        count: the number of processes on this machine; by default one per core. A scheduler at an address knows its own
            number.

    Raises:
        RecipeError: the scheduler is not one of these.
        ToolError: distributed is not installed, the scheduler does not answer, or its workers cannot be used.

    Example:
        >>> with open_workers(count=2) as workers:
        ...     list(map_batches(pow, [(2, 3), (3, 2)], workers))
        [8, 9]
    """
    check_scheduler(scheduler)
    with _Here(count or available_cores()) if not scheduler else _connected(scheduler, count) as workers:
        yield workers


@contextmanager
def given_or_here(workers: Workers | None, count: int | None = None) -> Iterator[Workers]:
    """These workers, or processes on this machine that end with the block, no more than there are cores."""
    if workers is not None:
        yield workers
        return
    cores = available_cores()
    with open_workers(count=min(count or cores, cores)) as here:
        yield here


def as_workers(executor: Executor, count: int | None = None) -> Workers:
    """The workers of an executor that a caller has.

    Args:
        executor: any :class:`concurrent.futures.Executor`, such as a ``ProcessPoolExecutor`` or what
            ``dask.distributed.Client.get_executor`` returns.
        count: how many functions it runs at the same time; by default its ``max_workers``, or the number of cores.
    """
    found = count or getattr(executor, "_max_workers", None) or available_cores()
    return Workers(executor, found, remote=not isinstance(executor, ThreadPoolExecutor))


@contextmanager
def _environment_restored() -> Iterator[None]:
    """Restore the environment after the block.

    Dask sets variables for its workers in this process, such as OMP_NUM_THREADS=1. What is started later must not
    inherit them.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@_environment_restored()
def _connected(scheduler: str, count: int | None) -> Workers:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        from .errors import ToolError

        raise ToolError(
            "--scheduler needs Dask, which is not installed", hint="pip install 'ncnnkit[cluster]'"
        ) from None

    class Connection(Client):  # type: ignore[misc]
        def __del__(self) -> None:
            """Dask's waits two minutes for a client that Ctrl-C left half made."""

    client = cluster = None
    wanted = 1
    try:
        if scheduler == LOCAL:
            # One thread each: a worker prepares the samples of one serving process, which has a thread of its own.
            # They are started afterwards, because nobody could end them if Ctrl-C came before the cluster has a name.
            cluster = LocalCluster(
                n_workers=0, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR, preload=__name__
            )
            # Processes inherit this from the thread that starts them. Ctrl-C goes to all processes of a terminal, and
            # one that is still starting would print a traceback.
            cluster.loop.add_callback(signal.pthread_sigmask, signal.SIG_BLOCK, [signal.SIGINT])
            wanted = count or available_cores()
            cluster.scale(wanted)
        client = Connection(cluster or scheduler, timeout=PATIENCE, set_as_default=False)
        try:
            client.wait_for_workers(wanted, timeout=PATIENCE + wanted)  # each takes time to start
            _check_workers(client, scheduler)
        except Exception as error:
            client.close()
            if type(error).__name__ == "TimeoutError":  # asyncio's, which is another class in Python 3.10
                raise DeviceError("the scheduler has no worker", where=scheduler, hint="dask worker ADDRESS") from None
            raise
    except (OSError, ValueError) as error:
        if cluster is not None:
            cluster.close()
        hint = "`dask scheduler` prints the address of a scheduler"
        raise DeviceError(f"no Dask scheduler answers: {error or 'timeout'}", where=scheduler, hint=hint) from None
    except Exception:
        if cluster is not None:
            cluster.close()
        raise
    except BaseException:
        if cluster is not None:
            _end_at_once(client, cluster)
        elif client is not None:
            client.close(timeout=0)
        raise
    number = len(client.scheduler_info(n_workers=-1)["workers"])
    return _Dask(client, cluster, f"{number} Dask worker{'s' if number != 1 else ''}")


@functools.cache
def versions() -> tuple[str, str]:
    """The versions of ncnnkit and of ncnn in this process: what must be the same on all workers."""
    from importlib.metadata import version

    return version("ncnnkit"), version("ncnn")


def _check_workers(client: Any, scheduler: str) -> None:
    """Raise DeviceError if a worker has no ncnnkit, or another version of it or of ncnn."""
    ours = versions()
    for worker, found in client.run(versions, on_error="return").items():
        if isinstance(found, BaseException):
            what = f"worker {worker} cannot run ncnnkit: {found}"
            raise DeviceError(what, where=scheduler, hint="install ncnnkit in the environment of its workers")
        _check_versions(worker, found, ours, scheduler)


def _check_versions(worker: str, found: Sequence[str], ours: Sequence[str], scheduler: str = "") -> None:
    if tuple(found) != tuple(ours):
        what = "worker {} has ncnnkit {} with ncnn {}; here they are {} and {}".format(worker, *found, *ours)
        raise DeviceError(what, where=scheduler, hint="install the same versions")


def _of_same_versions(ours: tuple[str, str], function: Callable[..., R], *batch: Any) -> R:
    """Run a batch in a worker, which may have joined the cluster after the others were checked."""
    _check_versions(_name_of_worker(), versions(), ours)
    return function(*batch)


def _name_of_worker() -> str:
    try:
        from distributed import get_worker

        return str(get_worker().address)
    except (ImportError, ValueError):  # not a worker of Dask
        import socket

        return f"{socket.gethostname()}, process {os.getpid()}"


def batch_size(samples: int, workers: Workers, share: float = SHARE) -> int:
    """How many samples of a set a batch has.

    Args:
        samples: the number of samples.
        share: the number of batches for each worker, if they are not limited to :data:`MOST` samples.
    """
    return max(1, min(MOST, math.ceil(samples / (workers.count * share)), samples))


def batches_of(samples: int, size: int) -> Iterator[range]:
    """The positions of the samples in each batch."""
    return (range(start, min(start + size, samples)) for start in range(0, samples, size))


def _nothing(_: int) -> None:
    pass


def map_batches(
    function: Callable[..., R],
    batches: Iterable[Sequence[Any]],
    workers: Workers,
    done: Callable[[int], None] = _nothing,
    instead: Callable[[int, str], R] | None = None,
) -> Iterator[R]:
    """What a function returns for each batch, in the order of the batches.

    A few batches for each worker are taken ahead, so the memory does not depend on the number of batches. A batch whose
    worker is lost runs again. If the iteration ends early, the workers are stopped.

    Args:
        function: called with the items of a batch as arguments.
        batches: the arguments of each call.
        workers: run the function.
        done: called in this thread with the number of each batch that is finished, in the order in which they finish.
        instead: makes the result of a batch, from its number and the reason, if its workers are always lost; by default
            that is an error.

    Raises:
        RuntimeFailure: a batch lost its worker several times.
        DeviceError: the scheduler is lost, or a worker has another version of ncnnkit or ncnn.
        Exception: whatever the function raises.
    """
    coming, running, ready = enumerate(batches), dict[Future[R], tuple[int, Sequence[Any], int]](), dict[int, R]()
    most, number, more = AHEAD * workers.count, 0, True

    def begin(index: int, batch: Sequence[Any], tries: int = 1) -> None:
        checked = (_of_same_versions, versions()) if workers.remote else ()
        running[workers.executor.submit(*checked, function, *batch)] = index, batch, tries

    finished = False
    try:
        while True:
            while more and len(running) + len(ready) < most:
                if more := (found := next(coming, None)) is not None:
                    begin(*found)
            while number in ready:
                yield ready.pop(number)
                number += 1
            if not running and not more:
                finished = True
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                index, batch, tries = running.pop(future)
                try:
                    ready[index] = future.result()
                except WorkerLost as error:
                    if tries < TRIES:
                        begin(index, batch, tries + 1)
                        continue
                    if instead is None:
                        raise RuntimeFailure(str(error)) from None
                    ready[index] = instead(index, str(error))
                except (CancelledError, BrokenExecutor) as error:
                    what = f"the workers were lost: {error}".rstrip(": ")
                    raise DeviceError(what, where=workers.name) from None
                except Exception as error:
                    if type(error).__name__ != "KilledWorker":  # Dask's; its module may not be there
                        raise
                    what = "a batch ended every worker that ran it, perhaps for lack of memory"
                    raise RuntimeFailure(what, where=workers.name) from None
                done(index)
    except KeyboardInterrupt:
        workers.interrupt()
        raise
    finally:
        if not finished:
            for future in running:
                future.cancel()
            workers.stop()
