"""Every parameter of a run: declared, loaded, checked, documented.
Imports no torch and nothing else of Lumina."""

from __future__ import annotations

from lumina.config.load import dump_config, load_config, load_preset, override, read_config
from lumina.config.parameters import ParameterInfo, parameters
from lumina.config.presets import About, about_preset, list_presets, presets_dir
from lumina.config.problems import ConfigError, Problem
from lumina.config.reference import reference_markdown
from lumina.config.schema import (
    GROUPS,
    CheckpointConfig,
    ChinchillaConfig,
    Config,
    DataConfig,
    ModConfig,
    ModelConfig,
    MoeConfig,
    OptimizationConfig,
    OrchestratorConfig,
    PrecisionConfig,
    TrainingConfig,
)
from lumina.config.validate import warnings_of

__all__ = [
    "GROUPS",
    "About",
    "CheckpointConfig",
    "ChinchillaConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "ModConfig",
    "ModelConfig",
    "MoeConfig",
    "OptimizationConfig",
    "OrchestratorConfig",
    "ParameterInfo",
    "PrecisionConfig",
    "Problem",
    "TrainingConfig",
    "about_preset",
    "dump_config",
    "list_presets",
    "load_config",
    "load_preset",
    "override",
    "parameters",
    "presets_dir",
    "read_config",
    "reference_markdown",
    "warnings_of",
]
