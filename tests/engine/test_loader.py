from __future__ import annotations

import itertools
import os
import re
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
from decoded import (
    LENGTH,
    Deadly,
    Faulty,
    Giving,
    Named,
    OutOfFiles,
    Processes,
    Raising,
    Slow,
    Squares,
    process_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bigrun.data.dataset import Samples
from bigrun.data.decoder import REPLACED, Decoder
from bigrun.data.loader import Restart, build_loader
from bigrun.data.order import EpochOrder
from bigrun.errors import DataError
from bigrun.sections import Data


@contextmanager
def stream(
    workers: int,
    start: int = 0,
    micro_batch: int = 4,
    dataset: object = None,
    prefetch: int = 2,
    *,
    channels: int = 3,
    seed: int = 0,
    timeout: float = 60.0,
    on_restart: Callable[[Restart], None] = lambda restart: None,
) -> Iterator[Iterator[Samples]]:
    order = EpochOrder(LENGTH, seed=3)
    data = Data(workers=workers, prefetch=prefetch, micro_batch=micro_batch, worker_timeout_seconds=timeout)
    loader = build_loader(
        dataset or Squares(),  # type: ignore[arg-type]
        order,
        data,
        channels,
        start,
        seed=seed,
        on_restart=on_restart,
    )
    with closing(loader) as batches:
        yield batches


def content(batches: Iterator[Samples], count: int) -> list[tuple[object, ...]]:
    return [
        (s.epochs.tolist(), s.indices.tolist(), [(i.dtype, i.tolist()) for i in s.images])
        for s in itertools.islice(batches, count)
    ]


def test_batches_follow_the_order_over_the_end_of_an_epoch() -> None:
    epochs, indices = EpochOrder(LENGTH, seed=3).index(range(12))
    with stream(workers=0) as batches:
        taken = list(itertools.islice(batches, 3))
    assert torch.cat([s.indices for s in taken]).tolist() == indices.tolist()
    assert torch.cat([s.epochs for s in taken]).tolist() == epochs.tolist() == [0] * 10 + [1] * 2
    assert sorted(indices[:10]) == list(range(10))
    for samples in taken:
        assert len(samples) == 4
        for index, image in zip(samples.indices.tolist(), samples.images, strict=True):
            assert image.dtype == Squares()[index].dtype
            assert torch.equal(image.float(), Squares()[index].float())


@pytest.mark.parametrize(("workers", "prefetch"), [(1, 1), (3, 2)])
def test_the_stream_is_the_same_for_any_number_of_workers(workers: int, prefetch: int) -> None:
    with stream(workers=0) as batches:
        expected = content(batches, 8)
    with stream(workers=workers, prefetch=prefetch) as batches:
        assert content(batches, 8) == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("position", [12, 20])
def test_a_stream_started_later_continues(workers: int, position: int) -> None:
    with stream(workers=0) as batches:
        expected = content(batches, 8)
    with stream(workers=workers, start=position) as batches:
        assert content(batches, 8 - position // 4) == expected[position // 4 :]


def test_another_batch_size_reads_the_same_images() -> None:
    with stream(workers=0, micro_batch=4) as four, stream(workers=0, micro_batch=6) as six:
        first = [i for s in itertools.islice(four, 3) for i in s.indices.tolist()]
        second = [i for s in itertools.islice(six, 2) for i in s.indices.tolist()]
    assert first == second


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_used_is_replaced_and_told(workers: int) -> None:
    epochs, indices = EpochOrder(LENGTH, seed=3).index(range(12))
    bad = int(indices[5])
    with stream(workers=workers, dataset=Squares(broken=(bad,))) as batches:
        samples = list(itertools.islice(batches, 3))
    assert [len(s.faults) for s in samples] == [0, 1, int(bad in indices[8:])]
    (fault,) = samples[1].faults
    replacement = int(samples[1].indices[1])
    assert (fault.number, fault.cause, fault.replacement) == (bad, "other", replacement)
    assert fault.path == f"image {bad} of the data set"
    assert fault.message == f"image-{bad}.png: not a readable image"
    assert replacement != bad
    assert torch.equal(samples[1].images[1].float(), Squares()[replacement].float())
    others = [i for i, index in enumerate(indices) if index != bad]
    assert torch.cat([s.indices for s in samples])[others].tolist() == indices[others].tolist()
    expected = [REPLACED + i if i not in others else epoch for i, epoch in enumerate(epochs.tolist())]
    assert torch.cat([s.epochs for s in samples]).tolist() == expected


def test_no_image_is_seen_twice_in_the_same_way() -> None:
    """What is drawn for a sample is drawn from its epoch and index."""
    with stream(workers=0, dataset=Squares(broken=tuple(range(LENGTH - 2)))) as batches:
        seen = [
            pair
            for s in itertools.islice(batches, 10)
            for pair in zip(s.epochs.tolist(), s.indices.tolist(), strict=True)
        ]
    assert {index for _, index in seen} == {LENGTH - 2, LENGTH - 1}
    assert len(set(seen)) == len(seen)


class InGroups(EpochOrder):
    """Images are replaced by others of the same five."""

    def substitutes(self, index: int) -> npt.NDArray[np.int64]:
        return index // 5 * 5 + np.arange(5)


def test_an_order_says_what_an_image_may_be_replaced_by() -> None:
    decoder = Decoder(Squares(), InGroups(LENGTH, seed=3), 1, 3, seed=3)
    for epoch in range(50):
        whole = list(decoder.candidates(epoch, 6))
        assert (whole[0], set(whole[1:5])) == (6, {5, 7, 8, 9})
        assert sorted(whole) == list(range(LENGTH)), "all of the five may be bad"


@settings(max_examples=20, deadline=None)
@given(
    broken=st.sets(st.integers(0, LENGTH - 1), min_size=1, max_size=LENGTH - 4),
    seed=st.integers(0, 5),
    start=st.integers(0, 30),
    split=st.sampled_from([1, 2, 3, 6]),
)
def test_a_replacement_is_a_function_of_seed_epoch_and_image(
    broken: set[int], seed: int, start: int, split: int
) -> None:
    """The same for any micro-batch and any place at which a stream begins; never a bad one."""

    def taken(micro_batch: int, start: int, count: int) -> list[tuple[int, list[object]]]:
        with stream(
            workers=0, dataset=Squares(tuple(broken)), micro_batch=micro_batch, start=start, seed=seed
        ) as batches:
            samples = list(itertools.islice(batches, count))
        return [(int(i), p.tolist()) for s in samples for i, p in zip(s.indices, s.images, strict=True)]

    whole = taken(6, 0, 7)
    assert not {index for index, _ in whole} & broken
    assert taken(split, start // split * split, 2) == whole[start // split * split :][: 2 * split]


def test_replacements_are_spread_over_the_data_set() -> None:
    decoder = Decoder(Squares(broken=(4,)), EpochOrder(LENGTH, seed=3), 1, 3, seed=3)
    found = Counter(next(itertools.islice(decoder.candidates(epoch, 4), 1, None)) for epoch in range(900))
    assert sorted(found) == [i for i in range(LENGTH) if i != 4]
    assert max(found.values()) < 2 * min(found.values())  # 100 each on average: 5 standard deviations


@pytest.mark.parametrize("workers", [0, 1])
def test_where_nothing_can_be_used_the_stream_ends_with_the_reasons(workers: int) -> None:
    with (
        stream(workers=workers, dataset=Squares(broken=tuple(range(LENGTH)))) as batches,
        pytest.raises(
            DataError, match=r"no image can be used(.|\n)*image-\d\.png: not a readable image(.|\n)*image-\d"
        ),
    ):
        next(batches)


def test_a_fault_keeps_its_cause_and_path_over_processes() -> None:
    with stream(workers=1, dataset=Faulty(), micro_batch=LENGTH) as batches:
        faults = next(batches).faults
    assert [(fault.path, fault.cause, fault.message) for fault in faults] == [
        ("b/scan.png", "truncated", "b/scan.png: truncated: it ends too early")
    ]


def test_an_image_with_other_channels_than_the_model_is_replaced() -> None:
    with stream(workers=0, dataset=Named(), channels=1) as batches:
        samples = list(itertools.islice(batches, 3))
    assert all(image.shape[0] == 1 for s in samples for image in s.images)
    fault = samples[0].faults[0]
    assert (fault.cause, fault.path) == ("unsupported", f"scan-{fault.number}.png")
    assert "the image has 3 channels, expected 1 (model.in_channels = 1)" in fault.message


def test_workers_and_their_server_outlive_stop_signals() -> None:
    with stream(workers=2, dataset=Processes(), prefetch=1, micro_batch=1) as batches:
        workers = {process_of(s) for s in itertools.islice(batches, 4)}
        servers = {psutil.Process(worker).ppid() for worker in workers}
        assert len(workers) == 2
        assert os.getpid() not in workers | servers
        for process in workers | servers:
            os.kill(process, signal.SIGINT)
            os.kill(process, signal.SIGTERM)
        assert {process_of(s) for s in itertools.islice(batches, 6)} == workers
        assert {psutil.Process(worker).ppid() for worker in workers} == servers


def test_after_a_killed_worker_the_stream_goes_on_with_the_same_samples() -> None:
    restarts: list[Restart] = []
    expected = [int(i) for i in EpochOrder(LENGTH, seed=3).index(range(40))[1]]
    with stream(workers=2, dataset=Processes(), micro_batch=2, on_restart=restarts.append) as batches:
        samples = [next(batches) for _ in range(3)]
        first = {process_of(s) for s in samples}
        os.kill(process_of(samples[0]), signal.SIGKILL)
        samples += [next(batches) for _ in range(17)]
    assert [int(i) for s in samples for i in s.indices] == expected
    (restart,) = restarts
    assert (restart.cause, restart.strike) == ("killed-by-SIGKILL", 1)
    assert restart.position % 2 == 0
    assert re.match(
        r"a process that decodes images was killed by SIGKILL while it decoded image \d of the data set; all are "
        rf"started again at position {restart.position} \(strike 1 of 3\)",
        restart.message,
    )
    assert len(first) == 2
    assert first.isdisjoint(process_of(s) for s in samples[restart.position // 2 :])


def test_a_worker_that_does_not_move_is_started_again() -> None:
    restarts: list[Restart] = []
    with stream(workers=1, dataset=Processes(), micro_batch=1, on_restart=restarts.append, timeout=1.0) as batches:
        worker = process_of(next(batches))
        os.kill(worker, signal.SIGSTOP)
        for _ in range(6):
            next(batches)
    (restart,) = restarts
    assert restart.cause == "stuck"
    assert "has not moved for 1 s" in restart.message
    assert not psutil.pid_exists(worker)


def test_a_slow_worker_that_moves_is_left_alone() -> None:
    """A micro-batch may take any time: the limit is on one image."""
    with stream(workers=1, dataset=Slow(), micro_batch=8, timeout=0.5, on_restart=refuse) as batches:
        began = time.monotonic()
        next(batches)
    assert time.monotonic() - began > 0.5


def refuse(restart: Restart) -> None:
    raise AssertionError(restart.message)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "too little memory.*Lower data.workers (1), data.prefetch (2) or data.micro_batch (1)"),
        (signal.SIGBUS, "/dev/shm is full ("),
        (signal.SIGSEGV, "makes the library that decodes it crash"),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else "",
)
def test_three_strikes_stop_the_stream_with_the_likely_cause(number: signal.Signals, words: str) -> None:
    restarts: list[Restart] = []
    with (
        stream(workers=1, dataset=Deadly(number), micro_batch=1, on_restart=restarts.append) as batches,
        pytest.raises(DataError) as caught,
    ):
        list(itertools.islice(batches, 100))
    assert [restart.strike for restart in restarts] == [1, 2]
    assert f"was killed by {number.name} while it decoded image 7 of the data set, for the 3rd time" in str(
        caught.value
    )
    assert all(part in str(caught.value) for part in words.split(".*"))
    assert "the same command continues" in str(caught.value)


def test_strikes_that_are_far_apart_are_forgiven() -> None:
    """As many micro-batches as were under way, delivered in between."""
    restarts: list[Restart] = []
    with stream(workers=1, dataset=Processes(), micro_batch=1, on_restart=restarts.append) as batches:
        for _ in range(3):
            worker = process_of(next(batches))
            os.kill(worker, signal.SIGKILL)
            while process_of(next(batches)) == worker:
                pass
            for _ in range(2):
                next(batches)
    assert [restart.strike for restart in restarts] == [1] * 3


def test_a_worker_that_fails_says_why() -> None:
    restarts: list[Restart] = []
    with (
        stream(workers=1, dataset=OutOfFiles(), on_restart=restarts.append) as batches,
        pytest.raises(DataError, match=r"has failed: OSError: \[Errno 24\] Too many open files.*3rd time"),
    ):
        next(batches)
    assert {restart.cause for restart in restarts} == {"failed"}


def descriptors() -> list[int]:
    return [int(path.name) for path in Path("/proc/self/fd").iterdir()]


@contextmanager
def open_files(free: int) -> Iterator[None]:
    """A process that may open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1 + free, hard))
    try:
        with suppress(OSError):
            while True:
                held.append(os.dup(0))
        for descriptor in held[:free]:
            os.close(descriptor)
        del held[:free]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


@pytest.mark.parametrize("free", [0, 1])
def test_a_process_that_may_open_no_more_files_says_so(free: int) -> None:
    with stream(workers=1) as batches:
        next(batches)
        with open_files(free), pytest.raises(DataError, match=r"may open no more than \d+ files.*`ulimit -n`"):
            next(batches)
        with open_files(free), pytest.raises(DataError, match=r"cannot be started: .*`ulimit -n`"):
            next(batches)


def test_micro_batches_that_are_kept_take_no_open_files() -> None:
    with stream(workers=1) as batches:
        kept = [next(batches)]
        before = len(descriptors())
        kept += [next(batches) for _ in range(5)]
        assert len(descriptors()) == before
    assert all(samples.images[0].shape[2] == 2 for samples in kept)


def test_a_data_set_that_cannot_be_sent_is_one_message() -> None:
    class Local(Squares):
        pass

    with pytest.raises(DataError, match=r"the data set, Local, cannot be sent .* set data\.workers = 0"):
        build_loader(Local(), EpochOrder(LENGTH, seed=3), Data(workers=1, micro_batch=4), 3, 0)


def test_shared_memory_has_nothing_to_do_with_dev_shm() -> None:
    with stream(workers=1) as batches:
        samples = next(batches)
        maps = Path("/proc/self/maps").read_text()
        assert "memfd:bigrun-images" in maps
        assert samples.images[0].any()
        del samples
        assert "memfd:bigrun-images" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (None, "gave a NoneType, expected a torch.Tensor"),
        (np.zeros((3, 4, 4), np.uint8), "gave a ndarray, expected a torch.Tensor"),
        (
            torch.zeros(3, 4, 4, dtype=torch.int16),
            r"gave torch.int16 of shape (3, 4, 4), expected (C, H, W) of torch.uint8",
        ),
        (torch.zeros(3, 4, 4, dtype=torch.float64), "gave torch.float64 of shape (3, 4, 4)"),
        (torch.zeros(4, 4, dtype=torch.uint8), "gave torch.uint8 of shape (4, 4)"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), "gave torch.uint8 of shape (3, 0, 4)"),
        (torch.full((3, 4, 4), 255.0), "gave floats from 255 to 255, expected [0, 1]"),
        (torch.tensor([[[0.5, torch.nan]]]), "gave floats from nan to nan, expected [0, 1]"),
    ],
)
def test_whatever_a_data_set_gives_is_looked_at(thing: object, said: str) -> None:
    with stream(workers=0, dataset=Giving(thing), micro_batch=LENGTH) as batches:
        (fault,) = next(batches).faults
    assert (fault.number, fault.cause) == (6, "unsupported")
    assert fault.message.startswith("image 6 of the data set: its data set ")
    assert said in fault.message


@pytest.mark.parametrize("workers", [0, 1])
def test_whatever_a_data_set_raises_is_a_fault_of_that_image(workers: int) -> None:
    with stream(workers=workers, dataset=Raising(), micro_batch=LENGTH) as batches:
        (fault,) = next(batches).faults
    assert fault.message == "image 7 of the data set: KeyError: 'scan'"


def test_workers_stop_with_the_stream() -> None:
    with stream(workers=2, dataset=Processes(), micro_batch=1) as batches:
        workers = {process_of(s) for s in itertools.islice(batches, 4)}
    for _ in range(50):
        if not any(psutil.pid_exists(worker) for worker in workers):
            return
        time.sleep(0.1)
    raise AssertionError("workers are still alive 5 s after close()")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_process_keeps_its_random_state_and_signals(workers: int) -> None:
    state, handlers = torch.get_rng_state(), [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with stream(workers=workers) as batches:
        next(batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_a_batch_crosses_processes_as_one_piece_of_shared_memory() -> None:
    with stream(workers=1) as batches:
        samples = next(batches)
    pointers = [image.untyped_storage().data_ptr() for image in samples.images]
    assert len(set(pointers)) == 1


def test_packed_images_are_their_copies() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(2, 3, 4).permute(2, 0, 1)  # not contiguous
    samples = Samples.pack([image, torch.tensor([[[0.5]]])], torch.tensor([7, 8]), torch.tensor([0, 1]))
    assert torch.equal(samples.images[0], image)
    assert samples.images[1].tolist() == [[[0.5]]]
    image.zero_()
    assert samples.images[0].any()
    assert torch.equal(samples.to(torch.device("cpu")).images[0], samples.images[0])


@pytest.mark.gpu
def test_pixels_reach_a_gpu_through_page_locked_memory() -> None:
    with stream(workers=1) as batches:
        samples = next(batches)
    there = samples.to(torch.device("cuda"))
    torch.cuda.synchronize()
    assert there.pixels.device.type == "cuda"
    assert torch.equal(there.pixels.cpu(), samples.pixels)
    assert there.indices.device.type == "cpu"
