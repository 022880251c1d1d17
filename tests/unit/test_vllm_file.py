"""vllm.yaml is read strictly: what is wrong is named with its line, and no key is repeated."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from bus.errors import DataFolderError, InvalidModelsFile
from callboard.cli.main import invoke
from callboard.vllm import make_key
from serve.vllm.settings import parse_vllm, read_vllm

GOOD = """
    port: 9000
    models:
      qwen3:
        model: Qwen/Qwen3-8B
        tensor_parallel: 2
        dtype: bfloat16
        gpus: 0.5
        engine: {enable_auto_tool_choice: true, tool_call_parser: hermes}
      small: {model: /models/small, always: 0, replicas: 3}
    """


def test_a_good_file() -> None:
    found = parse_vllm(dedent(GOOD))
    assert (found.port, found.api_key, list(found.models)) == (9000, "VLLM_KEY", ["qwen3", "small"])
    assert (found.models["qwen3"].memory, found.models["small"].memory) == (0.45, 0.9)
    assert found.models["qwen3"].engine["tool_call_parser"] == "hermes"


def test_the_gpus_of_all_copies_that_are_always_there_and_of_one_of_each_other_model_are_needed() -> None:
    assert parse_vllm(dedent(GOOD)).gpus() == 2 * 0.5 + 1
    assert parse_vllm(dedent(GOOD).replace("gpus: 0.5", "always: 3")).gpus() == 6 + 1


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("port: 9000", "prot: 9000", 2, "prot: is not known (did you mean port?)"),
        ("dtype: bfloat16", "d_type: x", 7, "models.qwen3.d_type: is not known (did you mean dtype?)"),
        ("dtype: bfloat16", "dtype: int4", 7, "models.qwen3.dtype: must be"),
        ("tensor_parallel: 2", "tensor_parallel: 0", 6, "models.qwen3.tensor_parallel: must be at least 1"),
        ("gpus: 0.5", "gpus: 2", 8, "models.qwen3.gpus: must be at most 1"),
        ("gpus: 0.5", "gpu_memory: 0.9\n    gpus: 0.5", 4, "gpu_memory may not be more than gpus"),
        ("model: Qwen/Qwen3-8B", "waiting: 3", 4, "models.qwen3.model: is missing"),
        ("dtype: bfloat16", "model: other", 7, "model stands there twice"),
        ("  qwen3:", "  qwen3:lora:", 4, "is no name"),
        ("tool_call_parser: hermes", "max_model_len: 8192", 9, "max_model_len is said by context"),
        ("tool_call_parser: hermes", "api_key: sk-secret", 9, "api_key is said by api_key, beside models"),
        ("tool_call_parser: hermes", "host: 0.0.0.0", 9, "host has no effect here"),
        ("port: 9000", "api_key: sk-secret", 2, "api_key: is the name of a secret such as VLLM_KEY"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, line: int, words: str) -> None:
    assert old in dedent(GOOD)
    with pytest.raises(InvalidModelsFile) as caught:
        parse_vllm(dedent(GOOD).replace(old, new))
    assert f"vllm.yaml, line {line}:" in caught.value.message
    assert words in caught.value.message
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{}", "models: {}"])
def test_a_file_without_models_is_wrong(text: str) -> None:
    with pytest.raises(InvalidModelsFile, match=r"models: (is missing|must have 1 or more entries)"):
        parse_vllm(text)


def test_a_file_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelsFile, match=r"There is no .*vllm\.yaml"):
        read_vllm(tmp_path / "vllm.yaml")


# -- the command where vLLM is not installed, as here ------------------------------------------------


def test_the_command_says_which_environment_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text(dedent(GOOD))
    assert invoke(["vllm", str(file)]) == 3
    assert "`make vllm`, then `.venv-vllm/bin/callboard vllm`" in capsys.readouterr().err


def test_the_command_says_first_what_is_wrong_in_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("ports: 1")
    assert invoke(["vllm", str(file)]) == 1
    assert "line 1: ports: is not known (did you mean port?)" in capsys.readouterr().err


# -- its key -----------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    key = make_key(tmp_path / "secrets", "VLLM_KEY")
    path = tmp_path / "secrets" / "VLLM_KEY"
    assert make_key(tmp_path / "secrets", "VLLM_KEY") == key == path.read_text()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize("written", ["", "short\n", "0123456789abcdefü"])
def test_what_is_no_key_is_refused(tmp_path: Path, written: str) -> None:
    (tmp_path / "VLLM_KEY").write_text(written)
    with pytest.raises(DataFolderError, match="is no key"):
        make_key(tmp_path, "VLLM_KEY")
