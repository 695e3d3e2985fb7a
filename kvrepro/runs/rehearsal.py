"""Stand-ins for the paper's models and rows, laid out as the real ones are, to run a profile's code paths anywhere.

A stand-in keeps the depth, the numbers of query and KV heads, the vocabulary's size, the special tokens with their ids
and what the chat template renders for one question. Everything else is small and random: width, weights, the text
vocabulary (a BPE trained on the questions; the published merges cannot be had here). Nothing that it answers is a
result, and its configuration says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..benchmarks.sources import REAL_BENCHMARKS
from ..errors import KvreproError
from ..files import write_rows
from ..methods.learned.importance import ImportancePredictor, PredictorShape, save_predictor
from ..models.shapes import CONFIGS, published_config
from ..models.table import MODELS, ModelEntry

NOTE = "stand-in with random weights, made by kvrepro rehearse; not the published model"
PREDICTOR_OWNER = "kvrepro-rehearsal"
HEAD_DIM, HIDDEN, TEXT_VOCABULARY = 8, 64, 4000


_BAR = "\uff5c"
_BOS, _EOS = f"<{_BAR}begin\u2581of\u2581sentence{_BAR}>", f"<{_BAR}end\u2581of\u2581sentence{_BAR}>"
_USER, _ASSISTANT = f"<{_BAR}User{_BAR}>", f"<{_BAR}Assistant{_BAR}>"
# by family: the number of ordinary tokens, and the control tokens after them, at their published ids
SPECIAL = {
    "qwen2": (151643, (_EOS, _USER, _ASSISTANT, _BOS, "<|EOT|>", "<think>", "</think>")),
    "llama": (
        128000,
        (_BOS, _EOS, *(f"<|reserved_{i}|>" for i in range(9)), _USER, _ASSISTANT, "<think>", "</think>"),
    ),
}
# what the published template renders for a system prompt, questions and answers, without its tool calls
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '" + _USER + "' + m['content'] }}"
    "{% else %}{{ '" + _ASSISTANT + "' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + _ASSISTANT + "<think>\n' }}{% endif %}"
)


def stand_in_config(name: str):
    """The published configuration of a table model, narrowed; says in itself that it is a stand-in."""
    known = [n for n in CONFIGS if CONFIGS[n]["model_type"] in SPECIAL]
    if name not in known:
        raise KvreproError(f"no stand-in for model {name!r}: its special tokens are not known; known: {known}")
    narrow = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "head_dim": HEAD_DIM, "kvrepro_stand_in": NOTE}
    return published_config(name, **narrow)


def build_tokenizer(name: str, texts: list[str]):
    """A byte-level BPE tokenizer trained on `texts`, padded so that the special tokens get their published ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    n_ordinary, control_tokens = SPECIAL[CONFIGS[name]["model_type"]]
    small = Tokenizer(models.BPE())
    small.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TEXT_VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    small.train_from_iterator(texts, trainer)
    content = json.loads(small.to_str())["model"]
    vocabulary = dict(content["vocab"])
    vocabulary |= {f"<unused_{i}>": i for i in range(len(vocabulary), n_ordinary)}
    full = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in content["merges"]]))
    full.pre_tokenizer, full.decoder = small.pre_tokenizer, decoders.ByteLevel()
    for token in control_tokens:
        # as published: the roles and the thought tags are not "special", or decoding a reply would drop them
        full.add_tokens([AddedToken(token, special=token in (_BOS, _EOS), normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=full,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_EOS,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def write_checkpoint(name: str, folder: Path, texts: list[str]) -> None:
    """Weights, tokenizer, template and generation defaults of a stand-in, as an ordinary checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    config = stand_in_config(name)
    tokenizer = build_tokenizer(name, texts)
    torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        # so that some stand-ins close their thought; which of them do depends on the seed
        for token in ("</think>", _EOS):
            head[tokenizer.convert_tokens_to_ids(token)] *= 2.2
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, **ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_hub(root: Path, names: list[str], texts: list[str]) -> dict[str, dict[str, Any]]:
    """A local Hub folder (`HF_HOME`) with the named models at their pinned revisions and a predictor for each.

    Returns:
        Rows for the user's model table: where each model's predictor is.
    """
    import torch

    rows = {}
    for name in names:
        entry: ModelEntry = MODELS[name]
        predictor_id = f"{PREDICTOR_OWNER}/importance-{name}"
        with tempfile.TemporaryDirectory(dir=root) as work:
            write_checkpoint(name, Path(work) / "model", texts)
            _into_hub(root, entry.source, Path(work) / "model", entry.revision)
            torch.manual_seed(0)
            head = ImportancePredictor(PredictorShape(HIDDEN, 32, 16)).to(torch.bfloat16)
            save_predictor(head, Path(work) / "head", {"model": name, "kvrepro_stand_in": NOTE})
            _into_hub(root, predictor_id, Path(work) / "head", None)
        rows[name] = {"predictor": predictor_id}
    return rows


def _into_hub(root: Path, hub_id: str, folder: Path, revision: str | None) -> None:
    """Files as content-addressed blobs, a snapshot of links under the commit, and `main` pointing to it."""
    place = root / "hub" / ("models--" + hub_id.replace("/", "--"))
    files = sorted(f for f in folder.iterdir() if f.is_file())
    digests = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    commit = revision or hashlib.sha1(json.dumps(digests).encode()).hexdigest()
    snapshot = place / "snapshots" / commit
    for part in (place / "blobs", place / "refs", snapshot):
        part.mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(commit)
    for file in files:
        blob, link = place / "blobs" / digests[file.name], snapshot / file.name
        os.replace(file, blob)
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / ".." / "blobs" / blob.name)


def write_benchmarks(target: Path, real: Path | None) -> dict[str, str]:
    """One JSONL file per real benchmark: the published rows where `real` has them, else stand-ins of the same format.

    Returns:
        Where the rows of each benchmark came from.
    """
    target.mkdir(parents=True, exist_ok=True)
    origins = {}
    for name, entry in REAL_BENCHMARKS.items():
        published = None if real is None else real / f"{name}.jsonl"
        if published is not None and published.is_file():
            (target / f"{name}.jsonl").write_bytes(published.read_bytes())
            origins[name] = "published rows"
            continue
        rows = [_choice_row(i) if entry.kind == "choice" else _row(i) for i in range(entry.n_problems)]
        write_rows(target / f"{name}.jsonl", rows)
        origins[name] = "stand-in rows"
    return origins


def _row(i: int) -> Mapping[str, str]:
    a, b = 17 + 3 * i, 5 + i
    question = (
        f"Ann has ${a}$ boxes with ${b}$ marbles in each box. She gives away $\\frac{{1}}{{2}}$ of a second pile of "
        f"${2 * b}$ marbles and keeps the rest. How many marbles does she have in the end?"
    )
    return {"id": f"stand-in-{i}", "problem": question, "answer": str(a * b + b)}


def _choice_row(i: int) -> Mapping[str, str]:
    n = 10 + i
    return {
        "Record ID": f"stand-in-{i}",
        "Question": f"A body moves at {n} m/s. How far does it get in {i + 2} s?",
        "Correct Answer": f"{n * (i + 2)} m",
        "Incorrect Answer 1": f"{n + i + 2} m",
        "Incorrect Answer 2": f"{n * (i + 3)} m",
        "Incorrect Answer 3": f"{2 * n * (i + 2)} m",
    }
