from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psutil
import pytest
import torch
from torch import Tensor

from bigrun.data.dataset import Samples
from bigrun.data.loader import build_loader
from bigrun.data.order import EpochOrder
from bigrun.errors import DataError
from bigrun.sections import Data

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
LENGTH = 10


class Squares:
    """Image i is (C, i + 1, 2), filled with i; dtype and channels change with i. The corner tells the process."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int, /) -> Tensor:
        if index == self.broken:
            raise DataError(f"image-{index}.png: not a readable image")
        kind = (torch.uint8, torch.uint16, torch.float32)[index % 3]
        return torch.full((1 if index % 2 else 3, index + 1, 2), index, dtype=torch.float32).to(kind)


class Processes:
    """Every image is the id of the process that decoded it."""

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int, /) -> Tensor:
        return torch.full((1, 1, 1), float(os.getpid()))


@contextmanager
def stream(
    workers: int, start: int = 0, micro_batch: int = 4, dataset: object = None, prefetch: int = 2
) -> Iterator[Iterator[Samples]]:
    order = EpochOrder(LENGTH, seed=3)
    data = Data(workers=workers, prefetch=prefetch, micro_batch=micro_batch)
    with closing(build_loader(dataset or Squares(), order, data, 3, start)) as batches:  # type: ignore[arg-type]
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
def test_a_data_error_arrives_with_its_message_and_in_its_place(workers: int) -> None:
    _, indices = EpochOrder(LENGTH, seed=3).index(range(12))
    with stream(workers=workers, dataset=Squares(broken=int(indices[5]))) as batches:
        next(batches)
        with pytest.raises(DataError) as caught:
            next(batches)
    assert str(caught.value) == f"image-{indices[5]}.png: not a readable image"


def test_an_image_with_other_channels_than_the_model_is_refused_by_name() -> None:
    class Named(Squares):
        def describe(self, index: int) -> str:
            return f"scan-{index}.png"

    order = EpochOrder(LENGTH, seed=3)
    data = Data(workers=0, micro_batch=4)
    with (
        closing(build_loader(Named(), order, data, 1, 0)) as batches,
        pytest.raises(
            DataError, match=r"scan-\d\.png: the image has 3 channels, expected 1 \(model\.in_channels = 1\)"
        ),
    ):
        next(batches)


def test_workers_and_their_server_outlive_stop_signals() -> None:
    with stream(workers=2, dataset=Processes(), prefetch=1, micro_batch=1) as batches:
        workers = {int(s.images[0]) for s in itertools.islice(batches, 4)}
        servers = {psutil.Process(worker).ppid() for worker in workers}
        assert len(workers) == 2
        assert os.getpid() not in workers | servers
        for process in workers | servers:
            os.kill(process, signal.SIGINT)
            os.kill(process, signal.SIGTERM)
        assert {int(s.images[0]) for s in itertools.islice(batches, 6)} == workers
        assert {psutil.Process(worker).ppid() for worker in workers} == servers


def test_a_killed_worker_is_an_error_with_a_way_out() -> None:
    with stream(workers=1, dataset=Processes(), prefetch=1, micro_batch=1) as batches:
        os.kill(int(next(batches).images[0]), signal.SIGKILL)
        with pytest.raises(DataError, match=r"a process that decodes images died .*the same command continues"):
            list(itertools.islice(batches, 20))


def test_whatever_a_data_set_raises_is_an_error_of_that_image() -> None:
    class Raising(Squares):
        def __getitem__(self, index: int, /) -> Tensor:
            raise KeyError("scan")

    with (
        stream(workers=0, dataset=Raising()) as batches,
        pytest.raises(DataError, match=r"image \d of the data set: KeyError: 'scan'"),
    ):
        next(batches)


def test_workers_stop_with_the_stream() -> None:
    with stream(workers=2, dataset=Processes(), micro_batch=1) as batches:
        workers = {int(s.images[0]) for s in itertools.islice(batches, 4)}
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
