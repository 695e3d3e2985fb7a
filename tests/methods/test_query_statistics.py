"""Query statistics against a model's own projections, their file, the texts and commands that they come from."""

from __future__ import annotations

import json
import random

import pytest
import torch

import kvrepro
from kvrepro import cli
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.errors import KvreproError
from kvrepro.methods.learned.judge import load_judge
from kvrepro.methods.learned.query_statistics import QueryStatistics, load_statistics, save_statistics
from kvrepro.paths import CHECKPOINTS, PACKAGE
from kvrepro.training.judge.sequences import text_sequences
from kvrepro.training.query_statistics import measure_statistics

from ..method_cases import HEAD_DIM, LAYERS, Q_HEADS, assets

TINY = ("tiny-r1-llama", "tiny-r1-qwen")
HAS_MODELS = all((CHECKPOINTS / name / "model.safetensors").is_file() for name in TINY)
needs_models = pytest.mark.skipif(not HAS_MODELS, reason="the tiny checkpoints are not in this checkout")
SEQUENCES = [[1, *random.Random(n).choices(range(20, 200), k=n)] for n in (11, 30, 3)]


def test_statistics_equal_what_the_projections_give(random_model):
    """Queries are taken before the model rotates them, so nothing has to be undone here."""
    caught = [[] for _ in range(LAYERS)]
    hooks = [
        layer.self_attn.q_proj.register_forward_hook(lambda _, args, out, i=i: caught[i].append(out[0]))
        for i, layer in enumerate(random_model.model.layers)
    ]
    with torch.inference_mode():
        for tokens in SEQUENCES:
            random_model(input_ids=torch.tensor([tokens]))
    for hook in hooks:
        hook.remove()
    queries = torch.stack([torch.cat(found) for found in caught]).view(LAYERS, -1, Q_HEADS, HEAD_DIM)
    assert queries.shape[1] == sum(map(len, SEQUENCES))
    pairs = torch.complex(queries[..., : HEAD_DIM // 2], queries[..., HEAD_DIM // 2 :])
    found = measure_statistics(random_model, SEQUENCES)
    torch.testing.assert_close(found.mean, pairs.mean(1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.mean_size, pairs.abs().mean(1), atol=1e-5, rtol=1e-4)
    assert (found.mean.abs() <= found.mean_size + 1e-6).all()


def test_no_token_gives_no_statistics(random_model):
    with pytest.raises(KvreproError, match="at least one token"):
        measure_statistics(random_model, [])


def test_statistics_survive_their_file_and_absent_ones_are_named(tmp_path):
    statistics = assets(("calibration",))["calibration"]
    folder = tmp_path / "query_statistics"
    save_statistics(statistics, folder, {"n_tokens": 1})
    again = load_statistics(folder)
    assert torch.equal(again.mean, statistics.mean) and torch.equal(again.mean_size, statistics.mean_size)
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "model.safetensors"]
    # a run that was killed between the two files leaves tensors that nothing describes
    (folder / "card.json").unlink()
    with pytest.raises(KvreproError, match="no query statistics in .*`kvrepro calibrate MODEL`"):
        load_statistics(folder)
    (folder / "card.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(KvreproError, match="query statistics in .* cannot be read"):
        load_statistics(folder)


def test_a_model_without_statistics_says_how_to_measure_them(random_model):
    with pytest.raises(KvreproError, match="has no query statistics: .*`kvrepro calibrate MODEL`.*calibration="):
        kvrepro.generate(random_model, build_tokenizer(), [[1, 30, 31]], "triattention", 48, window=8)


@pytest.mark.parametrize("which", ["mean", "mean_size"])
def test_statistics_of_another_model_are_refused_before_anything_is_generated(random_model, which):
    parts = {"mean": torch.zeros(LAYERS, Q_HEADS, HEAD_DIM // 2, dtype=torch.complex64)}
    parts["mean_size"] = parts["mean"].real.clone()
    parts[which] = parts[which][:, :3]
    # the prompt is far below the budget: no eviction would ever look at them
    with pytest.raises(KvreproError, match=r"\(2, 3, 4\), the model \(2, 6, 4\): they belong to another model"):
        kvrepro.generate(
            random_model,
            build_tokenizer(),
            [[1, 30, 31]],
            "triattention",
            48,
            window=8,
            max_new_tokens=2,
            calibration=QueryStatistics(**parts),
        )


def test_text_is_cut_into_pieces_and_its_end_is_held_out(tmp_path):
    tokenizer, path = build_tokenizer(), tmp_path / "plain.txt"
    path.write_text("1+2=3;4+5=9;" * 40)
    ids = tokenizer.encode(path.read_text(), add_special_tokens=False)
    train, digest = text_sequences(tokenizer, path, 50)
    held_out, _ = text_sequences(tokenizer, path, 50, "held_out")
    assert [len(s.token_ids) for s in train[:-1]] == [50] * (len(train) - 1)
    assert {s.token_ids[0] for s in train + held_out} == {tokenizer.bos_token_id}
    assert [t for s in train + held_out for t in s.token_ids[1:]] == ids
    assert sum(len(s.token_ids) - 1 for s in held_out) == len(ids) // 10
    assert len(digest) == 64
    path.write_text("1")
    with pytest.raises(KvreproError, match="tokens for the part 'train' are too few"):
        text_sequences(tokenizer, path, 50)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(KvreproError, match="cannot be read as UTF-8"):
        text_sequences(tokenizer, path, 50)


def run_cli(capsys, *arguments) -> dict:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@needs_models
@pytest.mark.model
def test_commands_run_on_a_text_and_write_cards(tmp_path, capsys):
    text, sizes = tmp_path / "text.txt", ["--text-tokens", "150", "--threads", "1"]
    text.write_text("1+2=3;4+5=9;" * 120)
    arguments = [TINY[0], "--text", str(text), *sizes]
    found = run_cli(capsys, "calibrate", *arguments, "--out", str(tmp_path / "statistics"))
    card = json.loads((tmp_path / "statistics" / "card.json").read_text())
    assert card["n_tokens"] == found["n_tokens"] > 500
    assert card["source"]["file"] == "text.txt" and len(card["weights"]) == 64 and card["seed"] == 0
    assert load_statistics(tmp_path / "statistics").mean.shape == (4, 6, 16)
    found = run_cli(
        capsys, "train-judge", *arguments, "--out", str(tmp_path / "judge"), "--steps", "2", "--periods", "8", "16"
    )
    card = json.loads((tmp_path / "judge" / "card.json").read_text())
    assert card["source"]["held_out"]["split"] == "held_out"
    assert set(card["held_out"]["pairwise_accuracy"]) == {"judge", "random", "recency", "running_sum", "block_sum"}
    assert load_judge(tmp_path / "judge").sizes == {"layers": 4, "kv_heads": 2, "head_dim": 32, "group": 3}


@pytest.mark.parametrize("command", ["calibrate", "train-judge"])
def test_commands_say_what_is_missing(command, tmp_path, capsys):
    assert cli.main([command, "r1-llama"]) == 2
    assert "give --out FOLDER" in capsys.readouterr().err
    if HAS_MODELS:
        assert cli.main([command, TINY[0], "--text", str(tmp_path / "absent"), "--out", str(tmp_path)]) == 2
        assert "absent: cannot be read" in capsys.readouterr().err


@needs_models
@pytest.mark.model
@pytest.mark.parametrize("name", TINY)
def test_shipped_statistics_and_judge_belong_to_the_shipped_weights(name):
    from kvrepro.models.identity import weights_fingerprint
    from kvrepro.models.table import model_entry

    weights = weights_fingerprint(model_entry(name))
    for folder in ("query_statistics", "judge"):
        card = json.loads((CHECKPOINTS / name / folder / "card.json").read_text())
        assert card["weights"] == weights
        assert (CHECKPOINTS / name / folder / "model.safetensors").stat().st_size < 300_000
    accuracy = card["held_out"]["pairwise_accuracy"]
    assert accuracy["judge"] > max(value for rule, value in accuracy.items() if rule != "judge")


def test_every_file_of_a_checkpoint_is_packaged():
    import tomllib

    with (PACKAGE.parent / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["kvrepro"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    assert {path for path in CHECKPOINTS.rglob("*") if path.is_file()} <= packaged
