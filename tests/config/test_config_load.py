"""Presets, files and overrides make one configuration, and everything wrong is told at once with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import ConfigError, dump_config, list_presets, load_config, load_preset, override, read_config


def problems_of(source: str | Path | None, overrides: object = ()) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_config(source, overrides)  # type: ignore[arg-type]
    assert raised.value.exit_code == 2
    return str(raised.value).splitlines()


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_presets_are_listed_by_size() -> None:
    assert list_presets() == ["debug", "debug_200m", "b1", "b7", "b14", "b30", "b50", "b100", "b200", "b300"]


def test_without_a_source_the_debug_preset_is_loaded() -> None:
    assert load_config() == load_preset("debug")


def test_an_override_may_be_bare_or_with_its_group() -> None:
    config = load_config("debug", ["batch_size=4", "moe.num_experts=16", "learning_rate=1e-4", "capacity_factor=null"])
    assert (config.training.batch_size, config.moe.num_experts) == (4, 16)
    assert (config.training.learning_rate, config.moe.capacity_factor) == (1e-4, None)


def test_python_values_override_too() -> None:
    config = load_config("debug", {"batch_size": 4, "moe": {"num_experts": 16}, "base_paths": Path("/data/a.txt")})
    assert (config.training.batch_size, config.moe.num_experts) == (4, 16)
    assert config.data.base_paths == ("/data/a.txt",)


def test_a_file_starts_from_its_preset_and_overrides_win(tmp_path: Path) -> None:
    path = write(tmp_path, "preset: b1\ntraining:\n  batch_size: 2\n  learning_rate: 5e-4\n")
    config = load_config(path, ["batch_size=3"])
    assert (config.preset, config.model.hidden_size) == ("b1", 1024)
    assert (config.training.batch_size, config.training.learning_rate) == (3, 5e-4)


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = load_config(
        "debug", ["router_init_bias=[1,0,0,0,0,0,0,-1.5]", "base_paths=[a.txt, b]", "warmup_steps=0.2"]
    )
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert read_config(path) == config
    assert load_config(path) == config


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = load_config("debug", ["base_paths=a.txt", "tokenizer=t/tokenizer.json"]).data
    assert data.base_paths == (str(tmp_path / "a.txt"),)
    assert data.tokenizer == str(tmp_path / "t/tokenizer.json")
    assert load_config("debug").data.tokenizer == "bpe"


def test_override_of_a_configuration_is_checked_as_a_whole() -> None:
    config = load_config("debug", {"batch_size": 5})
    assert override(config, {"max_steps": 9}).training.batch_size == 5
    with pytest.raises(ConfigError, match=r"moe.moe_top_k = 9 is above moe.num_experts = 8"):
        override(config, {"moe_top_k": 9})


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("model.hiden_size", "model.hidden_size"),
        ("batch_sise", "training.batch_size"),
        ("model.batch_size", "training.batch_size"),
        ("modle.hidden_size", "model.hidden_size"),
        ("trainning", "training"),
    ],
)
def test_an_unknown_key_gets_did_you_mean(wrong: str, meant: str) -> None:
    assert problems_of("debug", {wrong: 1}) == [f"{wrong} is not a parameter; did you mean {meant}?"]


def test_a_key_that_is_like_none_says_where_to_look() -> None:
    (anywhere,) = problems_of("debug", {"xyzzy": 1})
    assert anywhere.startswith(
        "xyzzy is not a parameter; docs/configuration.md lists them all, in the groups model, moe"
    )
    (in_group,) = problems_of("debug", {"moe.xyzzy": 1})
    assert in_group.startswith("moe.xyzzy is not a parameter; moe has use_moe, num_experts")


def test_an_unknown_preset_gets_did_you_mean() -> None:
    assert problems_of("debgu") == ["debgu is not a preset; did you mean debug?"]
    assert problems_of("nothing-like-it")[0].endswith("b200, b300, or a YAML file")


def test_all_problems_come_at_once_with_file_and_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
preset: debug
model:
  num_heads: 6
  hiden_size: 128
training:
  batch_size: four
  learning_rate: 0
precision:
  precision: mixed_bf61
optimization:
  use_deepspeed: true
modd:
  use_mod: true
""",
    )
    assert sorted(problems_of(path, ["moe_top_k=9"])) == sorted(
        [
            f"model.hiden_size is not a parameter ({path}:4); did you mean model.hidden_size?",
            f"modd.use_mod is not a parameter ({path}:13); did you mean mod.use_mod?",
            f"training.batch_size = four is text ({path}:6); it must be int",
            f"training.learning_rate = 0 is out of range ({path}:7); it must be above 0",
            f"precision.precision = mixed_bf61 is not one of its values ({path}:9); did you mean mixed_bf16?",
            f"optimization.use_deepspeed = true is not available yet ({path}:11); use false",
            f"model.num_heads = 6 does not divide model.hidden_size = 128 ({path}:3); use 1, 2, 4, 8, 16, 32, 64, 128",
            "moe.moe_top_k = 9 is above moe.num_experts = 8",
        ]
    )


def test_a_broken_rule_points_at_the_value_written_last(tmp_path: Path) -> None:
    path = write(tmp_path, "preset: debug\nmodel:\n  hidden_size: 130\n  num_heads: 4\n  num_kv_heads: 4\n")
    assert problems_of(path)[0].startswith(f"model.num_heads = 4 does not divide model.hidden_size = 130 ({path}:4)")
    path = write(tmp_path, "preset: debug\nmodel:\n  hidden_size: 129\n")
    assert problems_of(path)[0].startswith(f"model.num_heads = 2 does not divide model.hidden_size = 129 ({path}:3)")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("true", "training.batch_size = true is a bool"),
        ('"4"', "training.batch_size = 4 is text"),
        ("4.0", "training.batch_size = 4 is a float"),
        ("[4]", "training.batch_size = [4] is a list"),
        ("null", "training.batch_size = null is null"),
        (".nan", "training.batch_size = nan is a float"),
    ],
)
def test_a_hand_edited_config_says_where_a_type_is_wrong(tmp_path: Path, value: str, said: str) -> None:
    path = write(tmp_path, f"# edited by hand\ntraining:\n  batch_size: {value}\n")
    with pytest.raises(ConfigError) as raised:
        read_config(path)
    assert str(raised.value) == f"{said} ({path}:3); it must be int"
    assert [(p.path, p.line) for p in raised.value.problems] == [("training.batch_size", 3)]


def test_not_a_finite_number_is_refused() -> None:
    assert problems_of("debug", ["learning_rate=.inf"]) == ["training.learning_rate = inf is not a finite number"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: [1\n", "not YAML: "),
        ("- a\n- b\n", "a configuration must be a mapping of groups"),
        ("model: 3\n", "model is a group of parameters, not a value (3)"),
        ("model:\n", "model is a group without any values"),
        ("model:\n  num_layers: 2\n  num_layers: 3\n", "model.num_layers is written twice (first on line 2)"),
        ("preset: b2\n", "b2 is not a preset"),
    ],
)
def test_a_file_that_is_no_configuration_says_so(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    assert problems_of(path)[0].startswith(said)
    assert str(path) in problems_of(path)[0]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "no.yaml") == [f"cannot read {tmp_path}/no.yaml: No such file or directory"]
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9\n")
    assert problems_of(tmp_path / "latin.yaml") == [f"not UTF-8 at byte 7 ({tmp_path}/latin.yaml)"]


def test_an_override_without_a_value_says_so() -> None:
    assert problems_of("debug", ["batch_size", "=3", "batch_size=[1"])[:2] == [
        "'batch_size' is not of the form key=value",
        "'=3' is not of the form key=value",
    ]
