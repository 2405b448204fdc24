"""The number format and the threads of a run follow from the hardware, and what cannot be had is refused by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lumina.config import ConfigError, load_config
from lumina.hardware import (
    Hardware,
    PrecisionError,
    check_demands,
    choose_inference_precision,
    choose_precision,
    choose_threads,
    detect,
    detect_apart,
    detect_cpu,
    environment_of_platform,
    for_platform,
    mkl_is_narrow,
)
from lumina.store.errors import Refusal

GIB = 2**30


def gpu(major: int, minor: int = 0) -> Hardware:
    return Hardware("cuda", f"GPU sm_{major}{minor}", (major, minor), False, 8, 80 * GIB)


def cpu(bf16: bool = False, cores: int = 2) -> Hardware:
    return Hardware("cpu", "Example CPU", None, bf16, cores, 16 * GIB)


MPS = Hardware("mps", "Apple arm64", None, False, 8, 16 * GIB)


@pytest.mark.parametrize(
    ("hardware", "format", "why"),
    [
        (gpu(9), "mixed_bf16", "compute capability 9.0"),
        (gpu(8), "mixed_bf16", "compute capability 8.0"),
        (gpu(8, 9), "mixed_bf16", "compute capability 8.9"),
        (cpu(bf16=True), "mixed_bf16", "the CPU multiplies bfloat16 in hardware"),
        (cpu(bf16=False), "fp32", "reduced precision gains nothing on this CPU"),
        (gpu(7), "mixed_fp16", "compute capability 7.0 has no bfloat16"),
        (gpu(7, 5), "mixed_fp16", "compute capability 7.5 has no bfloat16"),
        (MPS, "fp16", "Apple MPS"),
        (gpu(6, 1), "fp32", "compute capability 6.1 has no fast reduced precision"),
    ],
    ids=str,
)
def test_the_automatic_choice_is_the_fastest_safe_format(hardware: Hardware, format: str, why: str) -> None:
    choice = choose_precision("auto", hardware)
    assert (choice.name, choice.reason) == (format, why)


@pytest.mark.parametrize(
    ("name", "compute", "held", "master", "scaled"),
    [
        ("fp32", "float32", "float32", "float32", False),
        ("fp16", "float16", "float16", "float32", True),
        ("bf16", "bfloat16", "bfloat16", "bfloat16", False),
        ("mixed_fp16", "float16", "float32", "float32", True),
        ("mixed_bf16", "bfloat16", "float32", "float32", False),
        ("fp8_e4m3", "bfloat16", "float32", "float32", False),
    ],
)
def test_a_format_says_what_it_computes_and_keeps(
    name: str, compute: str, held: str, master: str, scaled: bool
) -> None:
    choice = choose_precision(name, gpu(9))
    assert (choice.name, choice.compute_dtype, choice.weight_dtype) == (name, compute, held)
    assert (choice.master_dtype, choice.loss_scaling) == (master, scaled)
    assert hasattr(torch, choice.compute_dtype)
    assert choice.reason == "as asked for"


def test_the_optimizer_may_keep_wider_weights_than_the_model() -> None:
    choice = choose_precision("bf16", gpu(9), "fp32")
    assert (choice.weight_dtype, choice.master_dtype) == ("bfloat16", "float32")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"precision": "fp16", "master_precision": "fp16"}, "loses AdamW's second moment"),
        ({"precision": "auto", "master_precision": "bf16"}, "needs precision.precision = bf16, not auto"),
        ({"precision": "fp8_e4m3", "hidden_size": 136}, "multiplies in blocks of 16, and model.hidden_size = 136"),
        ({"precision": "fp8_e4m3", "quantization_aware_training": True}, "rounds weights that"),
        ({"precision": "fp16", "inference_precision": "fp32"}, "needs other weights"),
    ],
)
def test_formats_that_cannot_go_together_are_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("debug", settings)


@pytest.mark.parametrize(
    ("name", "hardware", "said", "nearest"),
    [
        ("mixed_bf16", gpu(7), "is not supported by GPU sm_70 (compute capability 7.0)", "mixed_fp16"),
        ("fp8_e4m3", gpu(8), "is not supported by GPU sm_80 (compute capability 8.0)", "mixed_bf16"),
        ("fp8_e4m3", gpu(7, 5), "is not supported by GPU sm_75 (compute capability 7.5)", "mixed_fp16"),
        ("fp8_e4m3", cpu(), "is not supported by Example CPU (cpu)", "mixed_bf16"),
        ("mixed_fp16", gpu(6), "is not supported by GPU sm_60 (compute capability 6.0)", "fp32"),
        ("mixed_bf16", MPS, "is not supported by Apple arm64 (mps)", "fp16"),
        ("mixed_fp16", MPS, "is not supported by Apple arm64 (mps)", "fp16"),
        ("fp64", cpu(), "fp64", "fp32"),
    ],
    ids=str,
)
def test_a_format_that_cannot_be_had_is_refused_with_the_nearest(
    name: str, hardware: Hardware, said: str, nearest: str
) -> None:
    with pytest.raises(PrecisionError) as refused:
        choose_precision(name, hardware)
    assert said in str(refused.value)
    assert refused.value.nearest == nearest
    assert str(refused.value).endswith(f"the nearest possible is {nearest}")
    assert choose_precision(nearest, hardware).name == nearest


def test_a_slow_format_is_taken_when_asked_for_and_said_to_be_slow() -> None:
    assert "slower than fp32" in choose_precision("mixed_bf16", cpu(bf16=False)).reason
    assert "slower" not in choose_precision("mixed_bf16", cpu(bf16=True)).reason
    assert "for trying out" in choose_precision("mixed_fp16", cpu(bf16=True)).reason
    assert choose_precision("fp8_e4m3", gpu(8, 9)).products == "fp8"


def test_inference_takes_the_format_of_training_unless_told_otherwise() -> None:
    training = choose_precision("mixed_bf16", gpu(9))
    assert choose_inference_precision("auto", training, gpu(9)) is training
    assert choose_inference_precision("fp32", training, gpu(9)).name == "fp32"
    eight = choose_inference_precision("int8", training, gpu(9))
    assert (eight.name, eight.products, eight.compute_dtype) == ("int8", "int8", "bfloat16")


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (4, 4), (5, 3), (16, 14)])
def test_above_four_cores_two_are_left_free(cores: int, threads: int) -> None:
    assert choose_threads(cpu(cores=cores)) == threads
    assert choose_threads(cpu(cores=cores), requested=3) == 3


@pytest.mark.parametrize(
    ("flags", "bf16"),
    [("fpu avx2 avx512f", False), ("fpu avx512_bf16", True), ("amx_tile amx_bf16", True), ("amx_bf16x", False)],
)
def test_bfloat16_units_of_a_cpu_are_read_from_its_flags(tmp_path: Path, flags: str, bf16: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor : 0\nmodel name\t: Example 9000\nflags\t\t: {flags}\n\nprocessor : 1\nflags : fpu\n")
    found = detect_cpu(cpuinfo, tmp_path / "none")
    assert (found.name, found.cpu_bf16, found.device) == ("Example 9000", bf16, "cpu")
    assert choose_precision("auto", found).name == ("mixed_bf16" if bf16 else "fp32")


@pytest.mark.parametrize(
    ("vendor", "family", "flags", "narrow"),
    [
        ("AuthenticAMD", "26", "avx2 avx512f avx512_bf16", True),  # Zen 5
        ("AuthenticAMD", "25", "avx2 avx512f avx512_bf16", False),  # Zen 4 computes 512 bits in two halves
        ("AuthenticAMD", "26", "avx2", False),  # a virtual machine that hides them
        ("GenuineIntel", "6", "avx2 avx512f", False),
        ("GenuineIntel", "30", "avx2 avx512f", False),
        ("AuthenticAMD", "", "avx512f", False),
    ],
)
def test_mkl_is_narrow_on_processors_of_amd_that_compute_512_bits_at_once(
    tmp_path: Path, vendor: str, family: str, flags: str, narrow: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"vendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n")
    assert mkl_is_narrow(cpuinfo) == narrow
    assert not mkl_is_narrow(tmp_path / "none")


def test_a_machine_without_cpuinfo_is_described_all_the_same(tmp_path: Path) -> None:
    found = detect_cpu(tmp_path / "none", tmp_path / "none")
    assert found.name
    assert not found.cpu_bf16
    assert found.memory_bytes > 0


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("800000 100000", 8), ("", 8)]
)
def test_the_quota_of_a_container_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    path = tmp_path / "cpu.max"
    path.write_text(quota + "\n")
    assert detect_cpu(tmp_path / "none", path).cores == cores


def test_a_gpu_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="H200", major=9, minor=0, total_memory=141 * GIB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    found = detect()
    assert (found.device, found.capability, found.count) == ("cuda", (9, 0), 4)
    assert str(found).startswith("4× H200 (cuda, 141 GiB, ")


def test_apple_comes_before_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert detect().device == "mps"


def test_without_either_the_cpu_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(module, "is_available", lambda: False)
    assert detect().device == "cpu"


# Asked without torch in this process


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The processes that were started to ask about the hardware."""
    commands: list[list[str]] = []
    real = subprocess.run

    def noted(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real(command, **options)

    monkeypatch.setattr(subprocess, "run", noted)
    monkeypatch.setattr(sys, "platform", "linux")
    return commands


def test_where_a_gpu_may_be_another_process_asks_torch(tmp_path: Path, asked: list[list[str]]) -> None:
    (tmp_path / "nvidia0").touch()
    assert detect_apart(tmp_path) == detect()
    assert len(asked) == 1


@pytest.mark.parametrize("file", ["nvidia12", "kfd", "dxg"])
def test_what_the_other_process_says_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    said = json.dumps(dataclasses.asdict(gpu(8, 9)))
    monkeypatch.setattr(sys.modules["lumina.hardware.detect"], "_ASK", f"print({said!r})")
    (tmp_path / file).touch()
    assert detect_apart(tmp_path) == gpu(8, 9)


def test_where_no_gpu_can_be_nobody_is_asked(tmp_path: Path, asked: list[list[str]]) -> None:
    (tmp_path / "nvidiactl").touch()
    assert detect_apart(tmp_path) == detect_cpu()
    assert asked == []


def test_a_machine_whose_torch_does_not_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(sys.modules["lumina.hardware.detect"], "_ASK", "raise ImportError('no torch here')")
    with pytest.raises(Refusal, match="torch cannot look at this machine's hardware: ImportError: no torch here"):
        detect_apart(tmp_path)


@pytest.mark.parametrize("name", ["precision", "inference_precision"])
def test_a_format_that_the_machine_lacks_is_refused_before_a_run_exists(name: str) -> None:
    config = load_config("debug", {name: "mixed_bf16"})
    check_demands(config, gpu(8))
    with pytest.raises(Refusal) as refused:
        check_demands(config, gpu(7, 5))
    assert refused.value.exit_code == 2
    assert refused.value.message.startswith(f"precision.{name} = mixed_bf16: precision mixed_bf16 is not supported by")
    assert refused.value.message.endswith("the nearest possible is mixed_fp16")


def test_compiling_is_refused_before_a_run_exists_where_it_cannot_work() -> None:
    with pytest.raises(Refusal, match=r"optimization\.compile = true: torch\.compile is not supported on Apple's MPS"):
        check_demands(load_config("debug", {"compile": True}), MPS)


@pytest.mark.parametrize(
    ("hardware", "why"),
    [(cpu(), "cpu has no flash attention"), (MPS, "mps has no flash attention"), (gpu(7, 5), "sm_75 has 7.5")],
    ids=str,
)
def test_flash_attention_is_refused_by_name_where_there_is_none(hardware: Hardware, why: str) -> None:
    config = load_config("debug", {"use_flash_attention": True})
    check_demands(config, gpu(8))
    with pytest.raises(Refusal, match=why + r"; use auto"):
        check_demands(config, hardware)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"precision": "fp32"}, r"computes in 16 bits, and precision\.precision = fp32"),
        ({"hidden_size": 48, "num_heads": 4, "num_kv_heads": 2}, r"model\.hidden_size / model\.num_heads = 12"),
        ({"hidden_size": 1056, "num_heads": 4, "num_kv_heads": 2}, r"up to 256 numbers, and .* = 264"),
    ],
)
def test_flash_attention_is_refused_where_the_model_is_not_for_it(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal, match=why + r"; use auto"):
        check_demands(load_config("debug", {"use_flash_attention": True, **changes}), gpu(8))
    check_demands(load_config("debug", changes), gpu(8))


def test_on_apple_what_mps_lacks_is_taken_out_and_said() -> None:
    config = load_config("debug", {"num_workers": 4})
    adapted, said = for_platform(config, MPS)
    assert (adapted.data.num_workers, adapted.optimization.use_flash_attention) == (0, False)
    assert [line.split(":")[0] for line in said] == [
        "data.num_workers = 0",
        "optimization.use_flash_attention = false",
    ]
    assert for_platform(config, gpu(8)) == (config, [])


def test_on_a_mac_the_cpu_computes_what_mps_lacks() -> None:
    assert environment_of_platform("darwin") == {"PYTORCH_ENABLE_MPS_FALLBACK": "1"}
    assert environment_of_platform("linux") == {}


def test_what_every_machine_has_needs_no_look_at_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lumina.hardware.demands.detect_apart", lambda: pytest.fail("the hardware was looked at"))
    check_demands(load_config("debug", {"precision": "fp32"}))
