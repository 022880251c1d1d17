"""models.yaml is read strictly: what is wrong is named with its line, and no key is repeated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from bus.errors import InvalidModelsFile
from serve.gateway.models_file import (
    DEFAULT,
    EXAMPLE,
    ModelsFile,
    SharedCacheSpec,
    parse_models,
    read_models,
)
from serve.local.settings import BatchedSpec, GenerationSpec

GOOD = """
    upstreams:
      openai: {type: openai, api_key: OPENAI_API_KEY}
      house:
        type: openai_compatible
        base_url: http://10.0.0.7:8000/v1
        answer_s: 30
    models:
      small:
        targets:
          - {upstream: house, model: qwen3, drop: [seed]}
          - {upstream: openai, model: gpt-5-mini, price: {input: 0.25, output: 2}}
    limits: {requests_per_minute: 60}
    """


def test_a_good_file() -> None:
    found = parse_models(dedent(GOOD))
    assert [target.upstream for target in found.models["small"].targets] == ["house", "openai"]
    assert (found.upstreams["house"].answer_s, found.limits.requests_per_minute) == (30, 60)
    assert parse_models(EXAMPLE).models["small"].targets[0].model == "gpt-5-mini"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_offers_nothing(text: str) -> None:
    assert parse_models(text) == ModelsFile()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        (
            "answer_s: 30",
            "answers_s: 30",
            7,
            "upstreams.house.answers_s: is not known (did you mean answer_s?)",
        ),
        ("limits:", "limit:", 13, "limit: is not known (did you mean limits?)"),
        (
            "{requests_per",
            "{request_per",
            13,
            "request_per_minute: is not known (did you mean requests_per_minute?)",
        ),
        ("drop:", "dropped:", 11, "models.small.targets.0.dropped: is not known (did you mean drop?)"),
        ("output: 2", "out: 2", 12, "models.small.targets.1.price.out: is not known (did you mean output?)"),
        ("answer_s: 30", "answer_s: soon", 7, "upstreams.house.answer_s: must be a number"),
        ("answer_s: 30", "answer_s: 0", 7, "upstreams.house.answer_s: must be above 0"),
        (
            "type: openai,",
            "type: opneai,",
            3,
            "upstreams.openai.type: must be 'local', 'openai', 'anthropic' or",
        ),
        (", api_key: OPENAI_API_KEY", "", 3, "upstreams.openai: an upstream of type openai needs an api_key"),
        ("base_url: http://10.0.0.7:8000/v1", "answer_s: 1", 4, "answer_s stands there twice"),
        ("http://10", "http://me:pass@10", 6, "upstreams.house.base_url: must not hold a password"),
        ("http://10.0.0.7:8000/v1", "10.0.0.7", 6, "must look like https://host:port/v1"),
        ("upstream: house,", "upstream: hause,", 11, "there is no upstream 'hause' (did you mean house?)"),
        ("small:", "sm all:", 9, "models.sm all: is no name"),
        ("drop: [seed]", "lacks: [sight]", 11, "models.small.targets.0.lacks.0: "),
        ("drop: [seed]", "drop: [messages]", 11, "messages cannot be left out of a request"),
        ("targets:", "targets: []\n  other:\n    targets:", 10, "must have 1 or more entries"),
        ("models:", "models: [\n", 10, ""),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, line: int, words: str) -> None:
    text = dedent(GOOD)
    assert old in text
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(text.replace(old, new, 1), "/etc/models.yaml")
    assert words in caught.value.message
    if "twice" not in words and words:
        assert caught.value.message.startswith(f"/etc/models.yaml, line {line}: ")
    assert "\n" not in str(caught.value)


def test_anthropic_serves_no_embeddings() -> None:
    text = """\
upstreams: {a: {type: anthropic, api_key: KEY}}
models:
  vectors:
    serves: embeddings
    targets: [{upstream: a, model: m}]
"""
    with pytest.raises(InvalidModelsFile, match=r"line 5: .*Anthropic has no embeddings"):
        parse_models(text)


@pytest.mark.parametrize("key", ["sk-proj-1234567890", "my key", "Bearer x"])
def test_a_key_pasted_in_is_refused_and_not_repeated(key: str) -> None:
    text = dedent(GOOD).replace("OPENAI_API_KEY", f'"{key}"')
    with pytest.raises(InvalidModelsFile, match="is the name of a secret") as caught:
        parse_models(text)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["- a list", "just words", "a: &a {b: *a}", "models: {1: {targets: []}}", "\t", "a: \x00", "models: *x"],
)
def test_nonsense_is_one_line(text: str) -> None:
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(text)
    assert "\n" not in str(caught.value)
    assert "Correct it" in caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "{type: local}",
            "{type: local, embedding: {devise: cpu}}",
            "local.embedding.devise: is not known (did you mean device?)",
        ),
        ("{type: local}", "{type: local, api_key: KEY}", "has no base_url and no api_key"),
        (
            "{type: local}",
            "{type: openai, api_key: KEY, embedding: {}}",
            "embedding is for an upstream of type local",
        ),
        (
            "{type: local}",
            "{type: openai, api_key: K, reranking: {}}",
            "reranking is for an upstream of type",
        ),
        ("{type: local}", "{type: local, rerank_path: rerank}", "rerank_path is for an upstream of type"),
        (
            "{type: local}",
            '{type: openai_compatible, base_url: "http://h/v1", rerank_path: "//other"}',
            "must be a path below the base_url, such as rerank",
        ),
        (
            "{type: local}",
            "{type: local, generation: {max_token: 9}}",
            "local.generation.max_token: is not known (did you mean max_tokens?)",
        ),
        ("{type: local}", "{type: local, embedding: {gpus: 2}}", "local.embedding.gpus: must be"),
    ],
)
def test_what_is_wrong_with_a_local_upstream(old: str, new: str, words: str) -> None:
    assert old in DEFAULT
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(DEFAULT.replace(old, new))
    assert words in caught.value.message


def test_without_a_file_the_packaged_model_is_served(tmp_path: Path) -> None:
    text = read_models(tmp_path / "models.yaml")
    assert list(parse_models(text).models) == ["all-MiniLM-L6-v2"]
    assert list(parse_models(text).local_models()) == [
        ("embeddings", "local", "sentence-transformers/all-MiniLM-L6-v2")
    ]
    assert list(parse_models(dedent(GOOD)).local_models()) == []


def test_one_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelsFile, match="cannot be read"):
        read_models(tmp_path)
    broken = tmp_path / "broken.yaml"
    broken.write_bytes(b"\xff")
    with pytest.raises(InvalidModelsFile, match="is no UTF-8"):
        read_models(broken)


def test_who_cannot_rerank_is_refused() -> None:
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(EXAMPLE.replace("{targets", "{serves: rerank, targets"))
    assert "who reranks is an upstream of type local or openai_compatible" in caught.value.message


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ('[{match: "(", answer: a}]', "is no regular expression"),
        ("[{match: a}]", "answer"),
        ("[{mach: a, answer: b}]", "mach: is not known (did you mean match?)"),
    ],
)
def test_what_is_wrong_with_a_rule(rules: str, words: str) -> None:
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(EXAMPLE.replace("{targets", f"{{rules: {rules}, targets"))
    assert words in caught.value.message
    with pytest.raises(InvalidModelsFile, match="rules is for a model that serves chat"):
        parse_models(EXAMPLE.replace("{targets", "{rules: [{answer: b}], serves: embeddings, targets"))


@pytest.mark.parametrize(
    ("similar", "words"),
    [
        ("{by: vector}", "small.similar.by: there is no model 'vector' (did you mean vectors?)"),
        ("{by: small}", "small.similar.by: small serves chat, not embeddings"),
        ("{by: vectors, threshhold: 1}", "threshhold: is not known (did you mean threshold?)"),
        ("{by: vectors, threshold: 0.3}", "similar.threshold: must be at least 0.5"),
        ("{by: vectors, categories: {faq: 2}}", "similar.categories.faq: must be at most 1"),
        ("{threshold: 0.9}", "similar.by"),
    ],
)
def test_what_is_wrong_with_similar(similar: str, words: str) -> None:
    vectors = "  vectors: {serves: embeddings, targets: [{upstream: openai, model: e}]}\n"
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(EXAMPLE.replace("{targets", f"{{similar: {similar}, targets") + vectors)
    assert words in caught.value.message
    with pytest.raises(InvalidModelsFile, match="similar is for a model that serves chat"):
        parse_models(EXAMPLE + vectors.replace("{serves", "{similar: {by: vectors}, serves"))


@pytest.mark.parametrize(
    ("shared", "words"),
    [
        ("{byte: 1}", "line 4: cache.shared.byte: is not known (did you mean bytes?)"),
        ("{answers: 0}", "line 4: cache.shared.answers: must be at least 1"),
        ("{bytes: -1}", "line 4: cache.shared.bytes: must be at least 0"),
        ("{answers: many}", "line 4: cache.shared.answers: must be a whole number"),
        ("off", "line 4: cache.shared"),
    ],
)
def test_what_is_wrong_with_the_shared_cache(shared: str, words: str) -> None:
    with pytest.raises(InvalidModelsFile) as caught:
        parse_models(f"upstreams:\n  here: {{type: local}}\ncache:\n  shared: {shared}\n")
    assert words in caught.value.message


def test_the_shared_cache_is_bounded_unless_told_otherwise() -> None:
    assert parse_models("cache: {ttl_s: 60}").cache.shared == SharedCacheSpec(
        bytes=268_435_456, answers=100_000
    )
    assert parse_models("cache: {shared: {bytes: 0}}").cache.shared.bytes == 0


EVERY_PLACE = """
upstreams:
  here:
    type: local
    embedding: {device: cpu}
    reranking: {device: cpu}
    generation: {device: cpu}
models:
  vectors: {serves: embeddings, targets: [{upstream: here, model: m}]}
  small:
    targets:
      - {upstream: here, model: m, price: {input: 1}}
    rules:
      - {answer: a}
    similar: {by: vectors}
cache:
  ttl_s: 1
  shared: {bytes: 0}
limits:
  tenant: {concurrent: 1}
"""


def mappings(node: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all mappings whose keys are ours, and not names that the file gives."""
    if isinstance(node, dict) and place not in (("upstreams",), ("models",)):
        yield place
    for key, below in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(below, dict | list):
            yield from mappings(below, (*place, key))


def kinds(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model, and all that its fields are made of."""
    found, waiting = set[type[BaseModel]](), [model]
    while waiting:
        one = waiting.pop()
        found.add(one)
        for field in one.model_fields.values():
            waiting += [part for part in parts(field.annotation) if part not in found]
    return found


def parts(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def test_an_unknown_key_is_named_in_every_mapping_with_its_line_and_the_one_that_was_meant() -> None:
    met = set()
    for place in mappings(yaml.safe_load(EVERY_PLACE)):
        data = yaml.safe_load(EVERY_PLACE)
        node = data
        for part in place:
            node = node[part]
        known = next(iter(node))
        node[f"{known}x"] = 1
        text = yaml.safe_dump(data, sort_keys=False)
        line = next(at for at, words in enumerate(text.splitlines(), 1) if f"{known}x:" in words)
        with pytest.raises(InvalidModelsFile) as caught:
            parse_models(text)
        where = ".".join(str(part) for part in (*place, f"{known}x"))
        assert f"line {line}: {where}: is not known (did you mean {known}?)." in caught.value.message
        met.add(len(place))
    assert met == {0, 1, 2, 3, 4, 5}


def test_no_part_of_the_file_takes_keys_that_it_does_not_know() -> None:
    found = kinds(ModelsFile)
    assert {ModelsFile, BatchedSpec, GenerationSpec} < found
    assert all(one.model_config.get("extra") == "forbid" for one in found)
    places = len(list(mappings(yaml.safe_load(EVERY_PLACE))))
    assert places >= len(found)  # each of them stands in the file above
