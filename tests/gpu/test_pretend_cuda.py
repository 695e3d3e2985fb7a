"""The pretend device objects to what a GPU objects to, notes what a GPU's host waits for, and leaves nothing behind."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels import append_kv as append_module
from kvrepro.kernels.append_kv import append_kv

from .pretend_cuda import BLOCKING, PretendCuda, PretendTensor
from .settings import needs_pretend_cuda

pytestmark = needs_pretend_cuda


@pytest.fixture
def gpu():
    with PretendCuda() as device:
        yield device


def waits(gpu: PretendCuda) -> dict[tuple[str, str], int]:
    gpu.journal.found("")
    return {(e.kind, e.what): n for e, n in gpu.journal.counts.items() if e.kind in (*BLOCKING, "event wait")}


def test_values_are_a_cpus_and_the_device_says_cuda(gpu):
    x = torch.arange(6, device="cuda").view(2, 3)
    assert isinstance(x, PretendTensor) and x.is_cuda and x.device == torch.device("cuda", 0)
    x[:, 1:] += 10
    halves = x.chunk(2)
    assert waits(gpu) == {}
    assert [half.tolist() for half in halves] == [[[0, 11, 12]], [[3, 14, 15]]]
    assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)


@pytest.mark.parametrize(
    ("code", "wait"),
    [
        (lambda x: x.tolist(), ("host read", "tolist")),
        (lambda x: int(x.sum()), ("host read", "aten._local_scalar_dense.default")),
        (lambda x: x[x > 1], ("host read", "index by a mask")),
        (lambda x: x.nonzero(), ("host read", "aten.nonzero.default")),
        (lambda x: x.cpu(), ("blocking download", "to")),
        (lambda x: torch.empty(3).copy_(x), ("blocking download", "copy_")),
        (lambda x: torch.tensor([1, 2], device="cuda"), ("blocking upload", "pageable")),
        (lambda x: x.copy_(torch.ones(3).pin_memory()), ("blocking upload", "pinned")),
        (lambda x: x[torch.tensor([0, 2])], ("blocking upload", "index from the host")),
        (lambda x: torch.cuda.synchronize(), ("device wait", "torch.cuda.synchronize")),
        (lambda x: torch.cuda.current_stream().synchronize(), ("stream wait", "stream.synchronize")),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_what_a_host_waits_for_is_noted_and_forbidden_in_a_capture(gpu, code, wait):
    x = gpu.tensor(torch.tensor([1.0, 2.0, 3.0]))
    code(x)
    assert waits(gpu) == {wait: 1}
    broken = pytest.raises(RuntimeError, match="operation failed due to a previous error during capture")
    with broken, torch.cuda.graph(torch.cuda.CUDAGraph()):
        code(x)


def test_what_a_host_does_not_wait_for_is_not_noted(gpu):
    x = gpu.tensor(torch.tensor([1.0, 2.0, 3.0]))
    y = torch.where(x > 1, x, 0.5) * torch.tensor(2.0) + torch.zeros(3, device="cuda")
    y[torch.arange(2, device="cuda")] = 7.0
    y.copy_(torch.ones(3).pin_memory(), non_blocking=True)
    torch.empty(3, pin_memory=True).copy_(y, non_blocking=True)
    y.to("cpu", non_blocking=True)
    torch.cuda.Event().record()
    torch.cuda.Stream().wait_stream(torch.cuda.current_stream())
    assert waits(gpu) == {}


def test_tensors_of_two_devices_do_not_mix(gpu):
    x = gpu.tensor(torch.ones(3))
    for mixed in (lambda: x + torch.ones(3), lambda: torch.cat([x, torch.ones(1)]), lambda: torch.ones(3)[x.long()]):
        with pytest.raises(RuntimeError, match="same device|should be on the cpu"):
            mixed()
    with pytest.raises(RuntimeError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:1")
    with pytest.raises(TypeError, match="Use Tensor.cpu"):
        x.numpy()


def test_a_copy_to_the_host_is_there_when_the_host_has_waited_for_it(gpu):
    host, x = torch.zeros(2, pin_memory=True), gpu.tensor(torch.tensor([4.0, 5.0]))
    event = torch.cuda.Event()
    host.copy_(x, non_blocking=True)
    event.record()
    x.zero_()
    assert host.isnan().all() and not event.query()
    event.synchronize()
    assert host.tolist() == [4.0, 5.0] and event.query()


def test_an_event_does_not_cover_what_was_queued_behind_it(gpu):
    host, x = torch.zeros(2, pin_memory=True), gpu.tensor(torch.tensor([4.0, 5.0]))
    event = torch.cuda.Event()
    event.record()
    host.copy_(x, non_blocking=True)
    event.synchronize()
    assert host.isnan().all()


def test_pinned_memory_must_not_change_before_its_copy_was_waited_for(gpu):
    x, host = torch.zeros(2, device="cuda"), torch.tensor([1.0, 2.0]).pin_memory()
    x.copy_(host, non_blocking=True)
    host.zero_()
    with pytest.raises(RuntimeError, match="pinned memory of shape .2,. changed before its copy was done"):
        torch.cuda.synchronize()


def captured(code) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        code()
    return graph


def test_a_capture_records_and_a_replay_executes(gpu):
    x, found = gpu.tensor(torch.tensor([1.0, 2.0])), []
    graph = captured(lambda: (found.append(x * 2), x.add_(1)))
    assert x.tolist() == [1.0, 2.0] and found[0].isnan().all().item()
    graph.replay()
    graph.replay()
    assert x.tolist() == [3.0, 4.0] and found[0].tolist() == [4.0, 6.0]


def test_a_graph_does_not_keep_alive_what_it_reads(gpu):
    read = [gpu.tensor(torch.tensor([1.0, 2.0]))]
    graph = captured(lambda: read[0] * 2)
    read.clear()
    with pytest.raises(
        RuntimeError, match=r"uses a tensor of shape .2,. that was made outside of the capture and freed"
    ):
        graph.replay()


def test_a_capture_needs_a_side_stream_and_one_that_failed_must_be_ended_by_hand(gpu):
    graph, x = torch.cuda.CUDAGraph(), gpu.tensor(torch.ones(1))
    with pytest.raises(RuntimeError, match="non-default stream"):
        graph.capture_begin()
    torch.cuda.empty_cache()
    pool, home = torch.cuda.graph_pool_handle(), torch.cuda.current_stream()
    with pytest.raises(RuntimeError, match="previous error during capture"), torch.cuda.graph(graph, pool=pool):
        x.item()
    assert torch.cuda.current_stream() is not home, "torch leaves the stream of a capture that failed current"
    with pytest.raises(RuntimeError, match="captures_underway"):
        torch.cuda.empty_cache()
    torch._C._cuda_endAllocateToPool(0, pool)
    torch.cuda.empty_cache()


def test_kernels_take_device_tensors_only_and_their_results_are_their_twins(gpu):
    torch.manual_seed(0)
    given = [torch.randn(2, 6, 8), None, None, torch.zeros(2, 2, 4, 8), torch.zeros(2, 2, 4, 8), torch.tensor([1, 3])]
    expected = append_kv(*given)
    on_gpu = [None if t is None else gpu.tensor(t) for t in given]
    on_gpu[3].zero_()
    found = append_module.append_kv(*on_gpu)
    assert torch.equal(found.inner, expected) and torch.equal(on_gpu[3].inner, given[3])
    assert gpu.journal.found("", "launch")["launch (append_kernel)"] == 1
    with pytest.raises(ValueError, match="Pointer argument values cannot be accessed from Triton"):
        append_module.append_kv(*on_gpu[:4], given[4], on_gpu[5])


def test_nothing_stays_behind():
    before = (torch.tensor, torch.cuda.Stream, torch.cuda.is_available(), append_module.append_kv)
    with PretendCuda() as gpu:
        x = gpu.tensor(torch.ones(2)) + torch.zeros(2, device="cuda")
    assert (torch.tensor, torch.cuda.Stream, torch.cuda.is_available(), append_module.append_kv) == before
    with pytest.raises(RuntimeError, match="outside of it"):
        x + 1
    with pytest.raises((AssertionError, RuntimeError), match="CUDA|NVIDIA"):
        torch.zeros(2, device="cuda")
