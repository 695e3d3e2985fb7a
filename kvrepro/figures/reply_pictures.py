"""Pictures of replies for a profile's page: the same questions under two methods, and what each eviction took."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import KvreproError
from ..models.table import model_entry, predictor_source
from ..runs.config import CellConfig
from ..runs.folder import CellFolder, read_records
from ..runs.profiles import Profile
from .token_picture import TokenPicture, picture_of

PER_METHOD = 2  # replies drawn per method and model
# a reply is generated again for its picture; longer limits than this are drawn only when asked for
SHORT_REPLY = 2048  # new tokens
# what stands beside dynts, the first that the profile has: equal pins first, so that only the scores differ
_BESIDE = ("random", "dynts_random", "question_window", "window_dynts", "window")


@dataclass(frozen=True)
class PictureSet:
    """The pictures of one model (its title), or the `note` why there are none."""

    model: str
    pictures: tuple[TokenPicture, ...] = ()
    note: str = ""


def drawn_cells(profile: Profile, done: Collection[str]) -> list[tuple[CellConfig, CellConfig]]:
    """Per model a finished `dynts` cell of a middle budget and what stands beside it.

    Beside it stands a finished cell of the same benchmark and budget, or, where the profile has none, `random` with
    the same settings, which pins the same tokens and differs in the scores alone.

    Args:
        done: ids of the finished cells.
    """
    finished = [cell for cell in profile.cells if cell.cell_id in done and cell.budget is not None]
    pairs = []
    for model in dict.fromkeys(cell.model for cell in finished):
        ours = [cell for cell in finished if cell.model == model and cell.method == "dynts"]
        ours = [cell for cell in ours if cell.benchmark == ours[0].benchmark]
        if not ours:
            continue
        chosen = sorted(ours, key=lambda cell: cell.budget)[(len(ours) - 1) // 2]
        same = {
            cell.method: cell
            for cell in reversed(finished)
            if (cell.model, cell.benchmark, cell.budget) == (model, chosen.benchmark, chosen.budget)
        }
        beside = next((same[name] for name in _BESIDE if name in same), None)
        pairs.append((chosen, beside or replace(chosen, method="random", options=None)))
    return pairs


def reply_pictures(profile: Profile, done: Collection[str], per_method: int | None = None) -> list[PictureSet]:
    """The pictures of a profile's page, model by model.

    The replies are generated again, as the cell generated them: a row's noise is keyed by seed, problem and sample and
    does not depend on its neighbours. The caption says whether the text came out as in the records.

    Args:
        done: ids of the finished cells.
        per_method: replies per method; None draws `PER_METHOD` where replies are short and none elsewhere.
    """
    sets = []
    for pair in drawn_cells(profile, done):
        title = model_entry(pair[0].model).title
        usual = PER_METHOD if pair[0].max_new_tokens <= SHORT_REPLY else 0
        wanted = usual if per_method is None else per_method
        if wanted == 0:
            command = f"kvrepro summary {profile.name} --pictures {PER_METHOD}"
            sets.append(PictureSet(title, note=f"Not drawn; `{command}` generates the replies again and draws them."))
            continue
        try:
            sets.append(PictureSet(title, tuple(_drawn(profile, pair, done, wanted))))
        except (KvreproError, OSError) as error:
            sets.append(PictureSet(title, note=f"Not drawn: {error}"))
    return sets


def _drawn(profile: Profile, pair: Sequence[CellConfig], done, n_problems: int) -> list[TokenPicture]:
    """Question by question, the methods below each other."""
    from ..methods.learned.importance import load_predictor_for
    from ..models.loading import load_model
    from ..runs.runner import replay_cell

    entry = model_entry(pair[0].model)
    model, tokenizer = load_model(entry)
    source = predictor_source(entry, pair[0].predictor)
    head = None if source is None else load_predictor_for(model, source)
    columns = []
    for config in pair:
        known = _texts(profile, config) if config.cell_id in done else None
        replies = replay_cell(config, model, tokenizer, n_problems)
        columns.append([_pictured(config, model, tokenizer, head, *reply, known) for reply in replies])
    return [picture for row in zip(*columns, strict=True) for picture in row]


def _texts(profile: Profile, config: CellConfig) -> dict[tuple[str, int], str]:
    """The texts that the cell's records hold."""
    records = read_records(CellFolder.of(profile.name, config).path)
    return {(record["problem_id"], record["sample_id"]): record["text"] for record in records}


def _pictured(config, model, tokenizer, head, completion, record: dict[str, Any], known) -> TokenPicture:
    """One reply, shaded by the head's prediction, or by the answer's attention where there is no head."""
    from ..analysis.observations import predicted_importance
    from ..training.labels import label_sequence

    entry, prompt = model_entry(config.model), completion.request.prompt_ids
    sequence, thought = [*prompt, *completion.token_ids], len(prompt) + completion.n_thinking_tokens
    has_answer = thought < len(sequence)
    if head is not None:
        scores, shading = predicted_importance(model, head, sequence), "the importance that the head predicts"
    elif has_answer:
        scores, shading = label_sequence(model, sequence, thought).labels, "the attention that the answer pays"
    else:
        scores, shading = None, "nothing, for want of a head and of an answer"
    answer_from = thought - (len(entry.tags(tokenizer).end) if has_answer else 0)
    title = f"{entry.title} | {config.benchmark} | {config.label} {config.budget} | {record['problem_id']}"
    kept = completion.kept_positions
    picture = picture_of(tokenizer, sequence, len(prompt), answer_from, scores, kept, title)
    verdict = "correct" if record["correct"] else "wrong"
    lost = sum(number is not None for number in picture.lost_at)
    if known is None:
        origin = "No cell of this profile: generated for this page."
    elif known.get((record["problem_id"], record["sample_id"])) == record["text"]:
        origin = "The reply in records.jsonl."
    else:
        origin = "Generated again; records.jsonl holds another text."
    caption = (
        f"Answered {record['answer'] or 'nothing'}, {verdict} (gold {record['gold']}, status {record['status']}). "
        f"{lost} of {len(sequence)} tokens lost in {completion.evictions} evictions. Shaded by {shading}"
        f" with the whole text in view. {origin}"
    )
    return replace(picture, caption=caption)
