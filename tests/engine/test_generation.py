"""`kvrepro.generate` and `load_model` take what callers have, and name what they cannot use."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.methods.table import METHODS, create_method
from kvrepro.models.table import model_entry
from kvrepro.models.tokens import render_prompt
from kvrepro.paths import CHECKPOINTS

from ..method_cases import assets

TEXT = "A m:=7; B y:=6; find m"
OTHER = "A c:=1; find c"
MESSAGES = [{"role": "user", "content": TEXT}]
IDS = [5, 60, 7, 80, 9]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def prompts_of(model, tokenizer, prompts, **options):
    """The token ids that were asked, in order."""
    replies = kvrepro.generate(model, tokenizer, prompts, max_new_tokens=2, **options)
    return [list(r.request.prompt_ids) for r in replies]


def test_every_form_of_a_prompt_is_one_prompt_and_so_is_each_in_a_list(random_models, tokenizer):
    text, other = render_prompt(tokenizer, TEXT), render_prompt(tokenizer, OTHER)
    cases = [
        (TEXT, [text]),
        ([TEXT], [text]),
        ((TEXT, OTHER), [text, other]),
        (pd.Series([TEXT, OTHER]), [text, other]),
        ((t for t in [TEXT, OTHER]), [text, other]),
        (MESSAGES, [text]),
        ([MESSAGES, MESSAGES], [text, text]),
        (IDS, [IDS]),
        (tuple(IDS), [IDS]),
        (np.array(IDS), [IDS]),
        ([IDS, [7, 8]], [IDS, [7, 8]]),
        ([TEXT, IDS, MESSAGES], [text, IDS, text]),
        ([], []),
    ]
    for prompts, expected in cases:
        assert prompts_of(random_models["llama"], tokenizer, prompts) == expected


def test_a_conversation_is_rendered_turn_by_turn(random_models, tokenizer):
    turns = [*MESSAGES, {"role": "assistant", "content": "m = 7"}, {"role": "user", "content": OTHER}]
    [ids] = prompts_of(random_models["llama"], tokenizer, turns)
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) > len(render_prompt(tokenizer, OTHER))


def test_one_prompt_gives_a_list_of_its_samples(random_models, tokenizer):
    replies = kvrepro.generate(random_models["llama"], tokenizer, TEXT, n_samples=3, max_new_tokens=2)
    assert [r.request.sample_id for r in replies] == [0, 1, 2]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (3, "prompts=int 3: expected a text"),
        (None, "prompts=NoneType None"),
        (b"text", "prompts=bytes"),
        (MESSAGES[0], "prompts=dict {'role'"),
        ({TEXT}, "prompts=set"),
        ([TEXT, 3.5], "prompt 1 is float 3.5"),
        ([TEXT, None], "prompt 1 is NoneType"),
        ([TEXT, []], "prompt 1 is empty"),
        ([[]], "prompt 0 is empty"),
        ([TEXT, 7], "prompt 1 is int 7"),
        ([IDS, [1, True]], "prompt 1 holds int|prompt 1 holds bool True"),
        (torch.tensor([IDS]), r"prompt 0 is Tensor tensor\(\[ 5.*tolist\(\)"),
        ([[TEXT, OTHER]], "prompt 0 holds str"),
        ([{"role": "user"}], "prompt 0 holds dict"),
        ([{"role": "user", "content": [1]}], "prompt 0 holds dict"),
        ([*MESSAGES, {"role": "assistant", "content": "7"}], "prompt 0 ends with a message of the assistant"),
        ([IDS, [230]], "prompt 1: token id 230, the model has 0 to 229"),
        ([-1], "prompt 0: token id -1"),
    ],
)
def test_what_is_no_prompt_is_named(random_models, tokenizer, prompts, message):
    with pytest.raises(KvreproError, match=message):
        kvrepro.generate(random_models["llama"], tokenizer, prompts, max_new_tokens=2)


def test_messages_that_the_chat_template_refuses_are_named(random_models, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('no system role') }}")
    with pytest.raises(KvreproError, match="prompt 0: the model's chat template refuses .* no system role"):
        kvrepro.generate(random_models["llama"], tokenizer, MESSAGES, max_new_tokens=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "64"}, "budget='64' is str, expected int"),
        ({"budget": 64.5}, "budget=64.5 is float, expected int"),
        ({"budget": True}, "budget=True is bool"),
        ({"n_samples": 0}, "n_samples=0: must be at least 1"),
        ({"n_samples": 1.0}, "n_samples=1.0 is float, expected int"),
        ({"n_samples": None}, "n_samples=None is NoneType"),
        ({"batch_rows": "8"}, "batch_rows='8' is str"),
        ({"batch_rows": 0}, "batch_rows=0"),
        ({"max_new_tokens": "9"}, "max_new_tokens='9' is str"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"seed": "a"}, "seed='a' is str, expected int"),
        ({"temperature": "0.6"}, "temperature='0.6' is str"),
        ({"temperature": None}, "temperature=None"),
        ({"top_p": "1"}, "top_p='1'"),
        ({"top_k": 2.5}, "top_k=2.5"),
        ({"sampling_order": 1}, "sampling_order=1 is int"),
        ({"think_end": 1}, "think_end=1 is int, expected str"),
        ({"keep_positions": 1}, "keep_positions=1 is int, expected bool"),
        ({"engine": {}}, "engine={}: expected an empty"),
        ({"window": "8"}, "window='8' is str, expected int"),
        ({"ratio": "0.5"}, "ratio='0.5' is str, expected float"),
        ({"evict_every": 2.0}, "evict_every=2.0 is float, expected int"),
        ({"protocol": 1}, "protocol=1 is int"),
        ({"pin_question": "yes"}, "option pin_question of method window='yes' is str, expected bool"),
        ({"sinks": 1.5}, "option sinks of method window=1.5 is float, expected int"),
        ({"granularity": 2}, "option granularity of method window=2 is int, expected str"),
    ],
)
def test_an_argument_of_the_wrong_type_or_range_is_named(random_models, tokenizer, arguments, message):
    with pytest.raises(KvreproError, match=message):
        kvrepro.generate(random_models["llama"], tokenizer, TEXT, "window", **{"budget": 64, **arguments})


@pytest.mark.parametrize(
    ("name", "meant"), [("temprature", "temperature"), ("windw", "window"), ("pin_qestion", "pin_question")]
)
def test_an_unknown_argument_lists_those_of_generate_and_of_the_method(random_models, tokenizer, name, meant):
    with pytest.raises(UnknownNameError, match=f"unknown option of method window '{name}'; known: .*{meant}") as caught:
        kvrepro.generate(random_models["llama"], tokenizer, TEXT, "window", 64, **{name: 1})
    assert "schedule" not in str(caught.value)


def test_numbers_of_numpy_are_numbers(random_models, tokenizer):
    model = random_models["llama"]
    sizes = {"window": np.int64(4), "evict_every": np.int32(6), "protocol": "fair"}
    plain = {name: value if isinstance(value, str) else int(value) for name, value in sizes.items()}
    found = [
        kvrepro.generate(model, tokenizer, TEXT, "window", budget, max_new_tokens=60, seed=seed, temperature=t, **given)
        for budget, seed, t, given in ((np.int64(40), np.int64(3), np.float32(1), sizes), (40, 3, 1, plain))
    ]
    assert [r.token_ids for r in found[0]] == [r.token_ids for r in found[1]]
    assert found[0][0].evictions


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"budget": 64}, "budget=64"),
        ({"window": 8}, "window=8"),
        ({"sinks": 2, "protocol": "fair"}, "sinks=2, protocol"),
    ],
)
def test_a_built_method_takes_neither_budget_nor_options(random_models, tokenizer, beside, named):
    made = create_method("window", 40, window=4, evict_every=6, protocol="fair")
    with pytest.raises(KvreproError, match=f"{named}.* beside a built method 'window', which has its own"):
        kvrepro.generate(random_models["llama"], tokenizer, TEXT, made, **beside)
    kvrepro.generate(random_models["llama"], tokenizer, TEXT, made, max_new_tokens=2)
    with pytest.raises(KvreproError, match="budget=64 beside a built method 'full'"):
        kvrepro.generate(random_models["llama"], tokenizer, TEXT, create_method("full"), 64)


def test_a_method_built_without_a_schedule_would_never_evict(random_models, tokenizer):
    from kvrepro.methods.recency import WindowMethod

    with pytest.raises(KvreproError, match="method 'window' was built without a schedule"):
        kvrepro.generate(random_models["llama"], tokenizer, TEXT, WindowMethod())


@pytest.mark.parametrize("method", [3, None, str, ["window"]])
def test_what_is_no_method_is_named(random_models, tokenizer, method):
    with pytest.raises(KvreproError, match="method=.*: expected a name"):
        kvrepro.generate(random_models["llama"], tokenizer, TEXT, method, 64)


def test_a_model_that_is_not_loaded_says_how_to_load_it(random_models, tokenizer):
    with pytest.raises(KvreproError, match="model='tiny-r1-llama' is str, expected a loaded model: .*load_model"):
        kvrepro.generate("tiny-r1-llama", tokenizer, TEXT)
    with pytest.raises(KvreproError, match="tokenizer=None is NoneType, expected a tokenizer"):
        kvrepro.generate(random_models["llama"], None, TEXT)


@pytest.mark.model
def test_a_model_is_loaded_by_name_folder_and_row():
    folder = CHECKPOINTS / "tiny-r1-llama"
    found = [kvrepro.load_model(m)[0] for m in ("tiny-r1-llama", folder, str(folder), model_entry("tiny-r1-llama"))]
    first = found[0].state_dict()
    assert all(torch.equal(first[k], v) for model in found[1:] for k, v in model.state_dict().items())


def test_what_is_no_model_is_named():
    with pytest.raises(UnknownNameError, match=r"unknown model 'tiny-r1-lama'; known: .*tiny-r1-llama"):
        kvrepro.load_model("tiny-r1-lama")
    for given in (None, 3, ["tiny-r1-llama"]):
        with pytest.raises(
            KvreproError, match=r"model=.*: expected a name of `kvrepro list models`, a folder, a Hub id"
        ):
            kvrepro.load_model(given)


@pytest.mark.parametrize("method", METHODS)
def test_options_of_every_method_are_checked_by_type(method):
    from kvrepro.methods.declaration import option_types
    from kvrepro.methods.table import method_class

    cls = method_class(method)
    scalars = [n for n, kind in option_types(cls).items() if kind.split(" ")[0] in ("int", "float", "bool", "str")]
    assert {"granularity", "pin_question", "pin_answer", "sinks", "pin_overflow"} <= set(scalars)
    sizes = {} if method == "full" else {"budget": 512, "protocol": "fair"}
    for name in scalars:
        with pytest.raises(KvreproError, match=f"option {name} of method {method}=.* is list, expected"):
            create_method(method, **sizes, **{**assets(cls.needs), name: [1]})
