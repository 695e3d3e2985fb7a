"""Pictures of replies for a profile's page: any reply of a finished cell, generated again, as a file that a page loads.

A file is a classic script (`token_picture.js` says what it calls), so that pages need no server.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from ..benchmarks.table import load_problems
from ..errors import KvreproError, RunError
from ..files import write_atomic
from ..methods.own import is_reference
from ..methods.table import method_class
from ..models.table import model_entry, predictor_source
from ..paths import results_root
from ..runs.config import CellConfig
from ..runs.folder import CellFolder, read_manifest, read_records
from ..runs.profiles import COMPARISON, Profile
from ..runs.replies import Key
from .token_picture import TokenPicture, picture_of, script_json

PICTURES = "pictures"  # folder of a cell's picture files, inside the cell's own
PER_METHOD = 2  # replies drawn per method and model
# a reply is generated again for its picture; longer limits than this are drawn only when asked for
SHORT_REPLY = 2048  # new tokens
# what stands beside dynts, the first that the profile has: equal pins first, so that only the scores differ
_BESIDE = ("random", "dynts_random", "question_window", "window_dynts", "window")


@dataclass(frozen=True)
class PictureFile:
    """One picture that was written: of which reply, and its file's place `src` below the profile's page."""

    cell_id: str
    problem_id: str
    sample_id: int
    src: str
    title: str
    caption: str


@dataclass(frozen=True)
class PictureSet:
    """The pictures of one model (its title), or the `note` why there are none.

    Attributes:
        rows: question by question, the methods beside each other.
    """

    model: str
    rows: tuple[tuple[PictureFile, ...], ...] = ()
    note: str = ""

    @property
    def pictures(self) -> tuple[PictureFile, ...]:
        """All of them, row by row."""
        return tuple(picture for row in self.rows for picture in row)


def drawn_cells(profile: Profile, done: Collection[str]) -> list[tuple[CellConfig, CellConfig]]:
    """Per model a finished `dynts` cell of a middle budget and what stands beside it; in a comparison its first method.

    Beside it stands a finished cell of the same benchmark and budget, or, where the profile has none, `random` with
    the same settings, which pins the same tokens and differs in the scores alone.

    Args:
        done: ids of the finished cells.
    """
    finished = [cell for cell in profile.cells if cell.cell_id in done and cell.budget is not None]
    name_of, first, others = attrgetter("method"), "dynts", _BESIDE
    if finished and profile.name.startswith(COMPARISON):
        # which may compare a method with itself under another switch
        name_of = attrgetter("label")
        first, *others = dict.fromkeys(name_of(cell) for cell in profile.cells if cell.budget is not None)
    pairs = []
    for model in dict.fromkeys(cell.model for cell in finished):
        ours = [cell for cell in finished if cell.model == model and name_of(cell) == first]
        ours = [cell for cell in ours if cell.benchmark == ours[0].benchmark]
        if not ours:
            continue
        chosen = sorted(ours, key=lambda cell: cell.budget)[(len(ours) - 1) // 2]
        same = {
            name_of(cell): cell
            for cell in reversed(finished)
            if (cell.model, cell.benchmark, cell.budget) == (model, chosen.benchmark, chosen.budget)
        }
        beside = next((same[name] for name in others if name in same), None)
        pairs.append((chosen, beside or replace(chosen, method="random", options=None)))
    return pairs


def picture_file(problem_id: str, sample_id: int) -> str:
    """Name of a reply's picture file; whatever the problem is called, it is a plain name inside one folder."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", problem_id)[:80]
    if plain != problem_id:
        # names that look alike now must not share a file
        # JSON can hold halves of characters, which UTF-8 alone cannot
        plain += f"-{hashlib.sha256(problem_id.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return f"{plain}-{sample_id}.js"


def picture_script(cell_id: str, key: Key, data: Mapping[str, Any]) -> str:
    """Content of a picture file.

    Args:
        data: `TokenPicture.data()`, or `{"error": "why there is none"}`.
    """
    return f"kvrepro.picture({script_json([cell_id, *key])[1:-1]},{script_json(data)});\n"


class PictureMaker:
    """Generates replies again and draws them, one request at a time; keeps the model that it loaded last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: tuple[tuple, tuple] | None = None

    def pictures(
        self, config: CellConfig, keys: Sequence[Key], known: Mapping[Key, str] | None
    ) -> list[tuple[TokenPicture, dict[str, Any]]]:
        """These replies as pictures, with their records; a caption says whether the text is that of the cell's records.

        Args:
            known: texts of the cell's records; None where it has not run.

        Raises:
            KvreproError: the cell has no such reply, or cannot run here; or its method's file lies among the results,
                which may be a stranger's.
        """
        from ..runs.runner import replay_cell

        if is_reference(config.method) and Path(config.method).is_relative_to(results_root().resolve()):
            raise KvreproError(f"{config.method} lies among the results, and code that comes with results is not run")
        with self._lock:
            model, tokenizer, head = self._models(config)
            replies = replay_cell(config, model, tokenizer, keys)
            return [(_pictured(config, model, tokenizer, head, *reply, known), reply[1]) for reply in replies]

    def _models(self, config: CellConfig) -> tuple:
        """Model, tokenizer and importance head of a cell."""
        from ..methods.learned.importance import load_predictor_for
        from ..models.loading import load_model

        entry = model_entry(config.model)
        source = predictor_source(entry, config.predictor)
        if self._loaded is None or self._loaded[0] != (entry, source):
            # two may not fit into memory together
            self._loaded = None
            model, tokenizer = load_model(entry)
            head = None if source is None else load_predictor_for(model, source)
            self._loaded = (entry, source), (model, tokenizer, head)
        return self._loaded[1]


def cell_picture(folder: Path, name: str, maker: PictureMaker) -> str | None:
    """The content of one picture file of a finished cell, made now; None where no reply of it has that file.

    Args:
        folder: the cell's; its manifest says how the replies were made.
        name: of the file, `picture_file` of a reply.

    Raises:
        KvreproError: the reply cannot be generated here, or the cell has another id today.
        RunError: the cell's files cannot be read.
    """
    known = reply_texts(folder)
    key = next((key for key in known if picture_file(*key) == name), None)
    if key is None:
        return None
    manifest = read_manifest(folder)
    config = CellConfig.from_mapping(manifest["config"])
    if config.cell_id != manifest["cell_id"]:
        raise KvreproError(
            f"cell {manifest['cell_id']} would be {config.cell_id} today: its method's file, weights or rows have "
            "changed since, so its replies cannot be made again; run the cell again"
        )
    [(picture, _)] = maker.pictures(config, [key], known)
    return picture_script(config.cell_id, key, picture.data())


def reason(error: Exception) -> str:
    """What went wrong in one line; where the message is not this package's own, with the kind of the error."""
    line = " ".join(str(error).split())
    return line if isinstance(error, KvreproError | RunError) else f"{type(error).__name__}: {line}"


def write_pictures(
    profile: Profile, done: Collection[str], folder: Path, per_method: int | None = None
) -> list[PictureSet]:
    """Write the pictures that a profile's page shows at once, model by model.

    The replies are generated again, as the cell generated them: a row's noise is keyed by seed, problem and sample and
    does not depend on its neighbours.

    Args:
        done: ids of the finished cells.
        folder: where the page lies. Files go to `CELL_ID/pictures/` in it, of a cell that has not run to
            `pictures/CELL_ID/`: its own folder has to stay free for its run.
        per_method: replies per method; None draws `PER_METHOD` where replies are short and none elsewhere.
    """
    sets, maker = [], PictureMaker()
    for pair in drawn_cells(profile, done):
        title = model_entry(pair[0].model).title
        usual = PER_METHOD if pair[0].max_new_tokens <= SHORT_REPLY else 0
        wanted = usual if per_method is None else per_method
        if wanted == 0:
            command = f"kvrepro summary {profile.name} --pictures {PER_METHOD}"
            sets.append(PictureSet(title, note=f"Not drawn; `{command}` generates the replies again and draws them."))
            continue
        try:
            columns = [_written(profile, config, done, folder, wanted, maker) for config in pair]
            sets.append(PictureSet(title, tuple(zip(*columns, strict=True))))
        except Exception as error:
            # a method of the user's own may raise anything, and the page has all else to show
            sets.append(PictureSet(title, note=f"Not drawn: {reason(error)}"))
    return sets


def _written(profile: Profile, config: CellConfig, done, folder: Path, n: int, maker: PictureMaker):
    """Files of the first sample of the cell's first problems."""
    keys = [(p.problem_id, 0) for p in load_problems(config.benchmark, config.n_problems, config.prompt_style)[:n]]
    is_done = config.cell_id in done
    known = reply_texts(CellFolder.of(profile.name, config).path) if is_done else None
    place = f"{config.cell_id}/{PICTURES}" if is_done else f"{PICTURES}/{config.cell_id}"
    (folder / place).mkdir(parents=True, exist_ok=True)
    files = []
    for key, (picture, _) in zip(keys, maker.pictures(config, keys, known), strict=True):
        src = f"{place}/{picture_file(*key)}"
        write_atomic(folder / src, picture_script(config.cell_id, key, picture.data()))
        files.append(PictureFile(config.cell_id, *key, src, picture.title, picture.caption))
    return files


def reply_texts(folder: Path) -> dict[Key, str]:
    """The texts that a finished cell's records hold, by problem and sample."""
    return {(record["problem_id"], record["sample_id"]): record["text"] for record in read_records(folder)}


def _pictured(config, model, tokenizer, head, completion, record: dict[str, Any], known) -> TokenPicture:
    """One reply, shaded by the head's prediction, or by the answer's attention where there is no head."""
    from ..analysis.observations import predicted_importance
    from ..training.trace_attention import label_sequence

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
    budget = "" if config.budget is None else f" {config.budget}"
    sample = f" sample {record['sample_id']}" if config.n_samples > 1 else ""
    title = f"{entry.title} | {config.benchmark} | {config.label}{budget} | {record['problem_id']}{sample}"
    kept = completion.kept_positions
    picture = picture_of(tokenizer, sequence, len(prompt), answer_from, scores, kept, title, config.budget)
    verdict = "correct" if record["correct"] else "wrong"
    lost = sum(number is not None for number in picture.lost_at)
    if known is None:
        origin = "No finished cell: generated for this picture."
    elif known.get((record["problem_id"], record["sample_id"])) == record["text"]:
        origin = "The reply in records.jsonl."
    else:
        origin = "Generated again; records.jsonl holds another text."
    granularity = (config.options or {}).get("granularity") or method_class(config.method).granularity
    slots = "" if granularity == "shared" else " Slots are those of the first layer and KV head."
    caption = (
        f"Answered {record['answer'] or 'nothing'}, {verdict} (gold {record['gold']}, status {record['status']}). "
        f"{lost} of {len(sequence)} tokens lost in {completion.evictions} evictions. Shaded by {shading}"
        f" with the whole text in view.{slots} {origin}"
    )
    return replace(picture, caption=caption)
