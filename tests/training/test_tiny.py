"""The tiny reasoners' language and problems: golds recomputed from the text alone, tokens that survive every loader."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter

import pytest

from kvrepro.benchmarks.chains.language import (
    ASSISTANT,
    BOS,
    CONTROL,
    EOS,
    THINK_END,
    THINK_START,
    USER,
    build_tokenizer,
    encode_pieces,
    vocabulary,
)
from kvrepro.benchmarks.chains.problems import TASKS, sample_problem, split_of
from kvrepro.benchmarks.generated import GENERATED
from kvrepro.benchmarks.table import load_problems
from kvrepro.errors import KvreproError

from .chains import solve

N_SAMPLED = 2000
MENTION = r"(?<![a-z+*-])([a-z])=(\d)(?!\d)"  # `k=1`, but not the end of `o+k=13`


def sampled(n=300, seed=0):
    rng = random.Random(seed)
    return [sample_problem(rng, rng.randint(4, 26), TASKS[i % 3]) for i in range(n)]


@pytest.fixture(scope="module")
def many():
    rng = random.Random(5)
    return [sample_problem(rng, rng.randint(4, 22), TASKS[i % 3]) for i in range(N_SAMPLED)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module", params=["tiny-r1-llama", "tiny-r1-qwen"])
def saved(request, tmp_path_factory):
    """A random model saved as a checkpoint and loaded as any Hugging Face model is: `(model, loaded, tokenizer)`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kvrepro.training.tiny.train import build_model, save_checkpoint

    folder = tmp_path_factory.mktemp(request.param)
    model = build_model(request.param, seed=3)
    save_checkpoint(model, folder, {"recipe": {}})
    return model, AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), folder


def test_gold_equals_an_independent_computation_from_the_text():
    for problem in sampled():
        values, gold = solve(problem.question())
        assert problem.values == values
        assert problem.gold == gold, problem.question()


def test_gold_has_the_form_of_its_task(many):
    forms = {"digits": r"\d{3}", "sum": r"\d|1[0-8]", "choice": "[ABCD]"}
    for problem in many:
        assert re.fullmatch(forms[problem.task], problem.gold)


def test_targets_are_distinct_and_never_constants(many):
    for problem in many:
        computed = {d.name for d in problem.definitions if d.operator}
        assert len(set(problem.targets)) == len(problem.targets)
        assert set(problem.targets) <= computed


def test_options_are_four_distinct_digits_with_one_right(many):
    for problem in (p for p in many if p.task == "choice"):
        assert len(set(problem.options)) == 4
        assert problem.values[problem.targets[0]] in problem.options


def test_every_line_of_a_reply_is_right_and_it_ends_in_the_box():
    rng = random.Random(1)
    for problem in sampled(150, seed=2):
        values, gold = solve(problem.question())
        thought, answer = "".join(problem.reply_pieces(rng)).split(THINK_END)
        lines = thought.splitlines()
        copied = [line for line in lines if not line.startswith("wait ")]
        assert [line.split("; ")[0] for line in copied] == problem.question().split("; ")[: len(problem.definitions)]
        for line in lines:
            for name, value in re.findall(MENTION, line):
                assert values[name] == int(value), line
        for name, value in re.findall(MENTION, answer):
            assert values[name] == int(value), answer
        assert {f"{name}={value}" for name, value in values.items()} <= set(re.split(r"[ ,.]", answer))
        assert answer.endswith(f" and the answer is \\boxed{{{gold}}}")


def test_some_earlier_lines_are_checked_again():
    rng = random.Random(1)
    replies = ["".join(p.reply_pieces(rng)) for p in sampled(150, seed=2)]
    computed = sum(sum(bool(d.operator) for d in p.definitions) for p in sampled(150, seed=2))
    share = sum(reply.count("wait ") for reply in replies) / computed
    assert 0.2 < share < 0.4


def test_no_digit_is_so_frequent_that_it_can_be_guessed(many):
    values = Counter(v for p in many for v in p.values.values())
    asked = Counter(p.values[t] for p in many for t in p.targets)
    for counts in (values, asked):
        assert set(counts) == set(range(10))
        assert max(counts.values()) / counts.total() < 0.2, counts


def test_no_answer_of_a_task_can_be_guessed(many):
    limits = {"digits": 0.02, "sum": 0.2, "choice": 0.3}
    for task, limit in limits.items():
        golds = Counter(p.gold for p in many if p.task == task)
        assert max(golds.values()) / golds.total() < limit, golds.most_common(3)


@pytest.mark.parametrize(
    ("n_variables", "task", "passes", "given"),
    [(3, "sum", 0, "=3"), (27, "sum", 0, "=27"), (8, "product", 0, "'product'"), (8, "sum", 10, "passes=10")],
)
def test_a_problem_that_cannot_exist_is_refused(n_variables, task, passes, given):
    with pytest.raises(ValueError, match=given):
        sample_problem(random.Random(0), n_variables, task, passes)


def test_same_seed_same_problem_and_other_seed_another():
    assert sampled(5, seed=1) == sampled(5, seed=1)
    assert sampled(5, seed=1) != sampled(5, seed=2)


def test_question_and_reply_encode_to_the_very_pieces_they_were_written_in(tokenizer):
    rng = random.Random(0)
    for problem in sampled(100):
        for pieces in (problem.question_pieces(), problem.reply_pieces(rng)):
            text = "".join(pieces)
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert ids == encode_pieces(pieces)
            assert tokenizer.decode(ids) == text


def test_checkpoint_tokenizer_agrees_with_the_built_one(saved, tokenizer):
    _, _, loaded, _ = saved
    rng = random.Random(0)
    for problem in sampled(60):
        for pieces in (problem.question_pieces(), problem.reply_pieces(rng)):
            text = "".join(pieces)
            ids = loaded.encode(text, add_special_tokens=False)
            assert ids == encode_pieces(pieces)
            assert loaded.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids) == text
    assert loaded.get_vocab() == tokenizer.get_vocab() == vocabulary()


def test_think_tags_and_control_tokens_are_one_token_each(saved):
    _, model, loaded, _ = saved
    for piece in (*CONTROL, THINK_START, THINK_END):
        assert loaded.encode(piece, add_special_tokens=False) == [vocabulary()[piece]]
    # as with R1: control tokens are hidden from text, think tags are not
    ids = encode_pieces([BOS, THINK_START, "7", THINK_END, EOS])
    assert loaded.decode(ids, skip_special_tokens=True) == f"{THINK_START}7{THINK_END}"
    assert (loaded.bos_token, loaded.eos_token) == (BOS, EOS)
    assert model.generation_config.eos_token_id == vocabulary()[EOS]


def test_chat_template_opens_the_thought_and_renders_the_training_prompt(saved):
    _, _, loaded, _ = saved
    from kvrepro.models.tokens import ThinkTags, render_prompt
    from kvrepro.training.tiny.batches import IGNORED, encode_example

    assert ThinkTags.of(loaded).end == (vocabulary()[THINK_END],)
    for problem in sampled(20):
        messages = [{"role": "user", "content": problem.question()}]
        text = loaded.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == f"{BOS}{USER}{problem.question()}{ASSISTANT}{THINK_START}\n"
        example = encode_example(problem, random.Random(0))
        ids, labels = example.ids, example.labels
        n_prompt = labels.count(IGNORED)
        assert labels[n_prompt:] == ids[n_prompt:]
        assert render_prompt(loaded, problem.question()) == ids[:n_prompt]
        assert ids[-1] == vocabulary()[EOS]
    with pytest.raises(Exception, match="only user and assistant turns are known, got system"):
        loaded.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)


def test_checkpoint_loads_as_an_ordinary_grouped_query_model(saved):
    import torch

    model, loaded, _, folder = saved
    assert type(loaded) is type(model)
    assert loaded.config.num_attention_heads >= 3 * loaded.config.num_key_value_heads
    assert (loaded.model.layers[0].self_attn.k_proj.bias is not None) == ("Qwen" in type(model).__name__)
    ids = torch.tensor([encode_pieces(sampled(1)[0].question_pieces())])
    with torch.inference_mode():
        assert torch.equal(model.eval()(ids).logits, loaded.eval()(ids).logits)
    assert sum(f.stat().st_size for f in folder.iterdir()) < 12e6
    assert {"training.json", "generation_config.json", "chat_template.jinja"} <= {f.name for f in folder.iterdir()}


@pytest.mark.parametrize("entry", GENERATED.values(), ids=GENERATED)
def test_committed_benchmark_is_what_its_generator_writes(entry):
    content = entry.path.read_bytes()
    assert content.decode() == entry.rows()
    assert hashlib.sha256(content).hexdigest() == entry.sha256


@pytest.mark.parametrize("entry", GENERATED.values(), ids=GENERATED)
def test_benchmark_problems_are_distinct_solvable_and_in_their_split(entry):
    problems = load_problems(entry.name)
    assert len(problems) == entry.n_problems >= 100
    assert len({p.question for p in problems}) == len({p.problem_id for p in problems}) == len(problems)
    for problem in problems:
        assert solve(problem.question)[1] == problem.gold
        assert split_of(problem.question) == "benchmark"
    assert [p.problem_id for p in load_problems(entry.name, 7)] == [p.problem_id for p in problems[:7]]


def test_a_changed_benchmark_file_is_refused_with_both_hashes(tmp_path, monkeypatch):
    entry = GENERATED["chain-12"]
    monkeypatch.setattr("kvrepro.benchmarks.generated.GENERATED_BENCHMARKS", tmp_path)
    with pytest.raises(KvreproError, match=r"chain-12\.jsonl is missing"):
        entry.load()
    entry.path.write_text(entry.rows().replace("find", "fnd", 1))
    with pytest.raises(KvreproError, match=f"expected {entry.sha256}"):
        entry.load()
    entry.path.write_text(entry.rows())
    assert len(entry.load()) == entry.n_problems
