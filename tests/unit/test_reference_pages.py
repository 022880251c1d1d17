"""The reference pages in docs/ name every key that is read, with its type, default and bounds, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from actors.context import Context
from actors.domain import DomainSpec, HostSpec, KindSpec, LimitSpec, TaskSpec
from actors.event_spec import EventSpec
from actors.model_calls import Model
from actors.schedule import ScheduleSpec
from bus import errors
from bus.task_limits import TaskLimits
from callboard.settings import Settings
from serve.gateway import models_file
from serve.local.settings import BatchedSpec, GenerationSpec
from serve.vllm.settings import VllmFile, VllmModelSpec, parse_vllm
from tests.unit.reference import (
    DOCS,
    calls,
    examples,
    members,
    models_below,
    names,
    rows_for,
    rows_of,
    sections,
    shown,
)

DOMAIN_YAML: dict[str, type[BaseModel]] = {
    "domain.yaml": DomainSpec,
    "kinds": KindSpec,
    "events": EventSpec,
    "schedules": ScheduleSpec,
    "tasks": TaskSpec,
    "tasks.limits": TaskLimits,
    "hosts": HostSpec,
    "limits": LimitSpec,
}
MODELS_YAML: dict[str, type[BaseModel]] = {
    "models.yaml": models_file.ModelsFile,
    "upstreams": models_file.UpstreamSpec,
    "models": models_file.ModelSpec,
    "targets": models_file.TargetSpec,
    "price": models_file.PriceSpec,
    "rules": models_file.RuleSpec,
    "similar": models_file.SimilarSpec,
    "embedding and reranking": BatchedSpec,
    "generation": GenerationSpec,
    "cache": models_file.CacheSpec,
    "cache.shared": models_file.SharedCacheSpec,
    "limits": models_file.LimitSpec,
    "limits.tenant": models_file.ShareSpec,
}

VLLM_YAML: dict[str, type[BaseModel]] = {"vllm.yaml": VllmFile, "models": VllmModelSpec}


@pytest.fixture(scope="module")
def domain_yaml() -> dict[str, str]:
    return sections((DOCS / "domain-yaml.md").read_text())


def test_every_part_of_domain_yaml_has_its_section(domain_yaml: dict[str, str]) -> None:
    assert set(DOMAIN_YAML.values()) == models_below(DomainSpec)
    assert list(domain_yaml) == list(DOMAIN_YAML)


@pytest.mark.parametrize("section", DOMAIN_YAML)
def test_the_page_of_domain_yaml_says_what_is_read(domain_yaml: dict[str, str], section: str) -> None:
    assert rows_of(domain_yaml[section]) == rows_for(DOMAIN_YAML[section])


@pytest.mark.parametrize("section", DOMAIN_YAML)
def test_the_examples_of_domain_yaml_are_read(domain_yaml: dict[str, str], section: str) -> None:
    found: list[Any] = examples(domain_yaml[section])
    assert found
    for example in found:
        DomainSpec.model_validate({"domain": "hello", "kinds": [{"class": "a:A"}], **example})


# -- docs/models-yaml.md -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models_yaml() -> dict[str, str]:
    return sections((DOCS / "models-yaml.md").read_text())


def test_every_part_of_models_yaml_has_its_section(models_yaml: dict[str, str]) -> None:
    assert set(MODELS_YAML.values()) == models_below(models_file.ModelsFile)
    assert list(models_yaml) == list(MODELS_YAML)


@pytest.mark.parametrize("section", MODELS_YAML)
def test_the_page_of_models_yaml_says_what_is_read(models_yaml: dict[str, str], section: str) -> None:
    assert rows_of(models_yaml[section]) == rows_for(MODELS_YAML[section])


def test_the_examples_of_models_yaml_are_read(models_yaml: dict[str, str]) -> None:
    found = examples("".join(models_yaml.values()))
    assert len(found) > 5
    for example in found:
        upstreams = {
            "openai": {"type": "openai", "api_key": "OPENAI_API_KEY"},
            **example.get("upstreams", {}),
        }
        models_file.parse_models(yaml.safe_dump({**example, "upstreams": upstreams}))


def test_the_first_example_of_models_yaml_keeps_what_there_is_without_a_file(
    models_yaml: dict[str, str],
) -> None:
    [example] = examples(models_yaml["models.yaml"])
    default = yaml.safe_load(models_file.DEFAULT)
    assert default["models"].items() <= example["models"].items()
    assert default["upstreams"].items() <= example["upstreams"].items()


# -- docs/vllm.md ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vllm_yaml() -> dict[str, str]:
    return sections((DOCS / "vllm.md").read_text())


@pytest.mark.parametrize("section", VLLM_YAML)
def test_the_page_of_vllm_yaml_says_what_is_read(vllm_yaml: dict[str, str], section: str) -> None:
    assert set(VLLM_YAML.values()) == models_below(VllmFile)
    assert rows_of(vllm_yaml[section]) == rows_for(VLLM_YAML[section])


def test_the_examples_of_vllm_yaml_fit_the_one_of_models_yaml(vllm_yaml: dict[str, str]) -> None:
    first, _second = [
        parse_vllm(yaml.safe_dump(found)) for section in VLLM_YAML for found in examples(vllm_yaml[section])
    ]
    (gateway,) = examples(vllm_yaml["In models.yaml"])
    models = models_file.parse_models(yaml.safe_dump(gateway))
    (upstream,) = models.upstreams.values()
    assert (upstream.base_url, upstream.api_key) == (f"http://127.0.0.1:{first.port}/v1", first.api_key)
    (asked,) = [target.model for model in models.models.values() for target in model.targets]
    assert asked in first.models


# -- links -------------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    """Those of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*sorted(DOCS.glob("*.md")), DOCS.parent / "README.md"], ids=lambda p: p.name
)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^):]+)\)", text):
        file, _, anchor = target.partition("#")
        other = page.parent / file if file else page
        other = other / "README.md" if other.is_dir() and anchor else other
        assert other.exists(), target
        assert not anchor or anchor in anchors(other.read_text()), target


# -- the settings ------------------------------------------------------------------------------------


def test_the_readme_names_every_setting_and_no_other() -> None:
    settings = {f"CALLBOARD_{name.upper()}" for name in Settings.model_fields} - {"CALLBOARD_RAY_ADDRESS"}
    text = (DOCS.parent / "README.md").read_text().split("## Settings")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == {*settings, "RAY_ADDRESS"}


# -- docs/context.md ---------------------------------------------------------------------------------

OWN = "Not for handlers"


@pytest.fixture(scope="module")
def context() -> dict[str, str]:
    return sections((DOCS / "context.md").read_text())


def raised(text: str | None) -> set[str]:
    """The errors that a docstring names after the word Raises."""
    words = re.findall(r"\w+", (text or "").partition("Raises")[2])
    return {word for word in words if hasattr(errors, word)}


def test_the_page_of_the_context_has_each_of_its_calls_as_it_is_written(context: dict[str, str]) -> None:
    for_handlers = {
        shown(name, member) for name, member in members(Context).items() if name not in names(context[OWN])
    }
    of_models = {shown(name, member) for name, member in members(Model).items()}
    found = calls(context.values())
    assert set(found) == for_handlers | of_models
    assert names(context[OWN]) <= set(members(Context))


def test_the_page_of_the_context_names_the_errors_that_are_there(context: dict[str, str]) -> None:
    found = calls(context.values())
    for cls in (Context, Model):
        for name, member in members(cls).items():
            cells = found.get(shown(name, member))
            if cells is not None:
                assert raised(member.__doc__) <= names(cells[3]), name
    for cells in found.values():
        errors_named = {name for name in names(cells[3]) if name[0].isupper()}
        assert all(hasattr(errors, name) for name in errors_named), cells


def test_each_call_of_the_context_says_whether_it_is_durable(context: dict[str, str]) -> None:
    for cells in calls(context.values()).values():
        assert cells[2] in ("no", "with the commit", "recorded")
        assert not cells[0].startswith("`await") or cells[2] == "recorded"
