"""Frozen configurations: plain values, nothing computed, nothing global.

A variant is `dataclasses.replace`; the named ones are in `presets`. Unknown fields are errors
because dataclasses refuse them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

from liveedit_jax.backbone_config import BackboneConfig


@dataclass(frozen=True, kw_only=True)
class EditorConfig:
    """LiveEdit's sizes and switches (paper section 4; letters as in `types`)."""

    module_width: int = 1024  # M
    heads_n: int = 8
    generator_heads_n: int | None = None  # heads of the two generators; None: heads_n, as released
    rank: int = 4  # R
    queries_n: int = 4  # E
    expert_scale: float = 5.0  # s: experts are divided by s * sqrt(R)
    norm_eps: float = 1e-5
    top_k: int = 8  # K: expert bodies gathered per query; exact while K >= hit_n
    # Both extractors start as one, so that a query's key is near that of an edit like it.
    paired_init: bool = False
    # The extractors' vision value maps start this much larger than released: the margin between an
    # entity and all others then stands from the first step where the states already part them.
    vision_init_scale: float = 1.0
    # Departures from the released code, each tested for both values.
    official_double_layer: bool = False  # released training runs the edit layer twice
    locality_kl: str = "edited_to_original"  # or "original_to_edited", as the paper writes
    train_eos: bool = True  # released: False

    def __post_init__(self):
        """Refuse values that no code path implements."""
        if self.locality_kl not in ("edited_to_original", "original_to_edited"):
            raise ValueError(
                f"locality_kl={self.locality_kl!r}: use 'edited_to_original' or "
                "'original_to_edited'"
            )
        for name in ("heads_n", "generator_heads_n"):
            heads_n = getattr(self, name)
            if heads_n is not None and self.module_width % heads_n:
                raise ValueError(
                    f"module_width={self.module_width} is not a multiple of {name}={heads_n}"
                )


class Precision(Enum):
    """How numbers of the repository are kept; they are read, and summed, in float32."""

    F32 = "float32"
    BF16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """How a repository keeps what routing reads of every expert, and what it applies of a few."""

    keys: Precision = Precision.F32
    bodies: Precision = Precision.F32
    bodies_on_host: bool = False  # in the host's memory; the K of a query are fetched


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis of a mesh; the product is how many there are."""

    data: int = 1  # copies of the weights, each with a part of the batch
    fsdp: int = 1  # batch and weights are split; a layer's weights are gathered when it runs
    tensor: int = 1  # inside a layer: heads, and columns of its MLP
    expert: int = 1  # rows of the repository; for everything else the same as fsdp


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How the generators' start is fitted to frozen states (training/addressing.py)."""

    batches_n: int = 500  # whose edits are read
    look_steps_n: int = 2_500
    write_steps_n: int = 3_000
    look_decay: float = 0.0  # AdamW's, of looks while they are fitted alone
    write_decay: float = 0.0  # and of looks and gates together


@dataclass(frozen=True, kw_only=True)
class EditorTrainConfig:
    """How an editor is trained (Adam, paper defaults)."""

    batch_n: int = 8  # B, samples a batch
    accumulate_n: int = 1  # batches a step; their gradients' mean is followed
    # most positions of a row whose logits are read, one more than the longest answer has tokens
    # (None: as many as stand behind the image)
    answers_n: int | None = None
    routing_n: int | None = None  # samples of the routing terms (None: B); the first B are the rest
    # Hard routing beyond the released code's (docs/method.md): pairs about one subject are not each
    # other's negatives; the negatives weigh as if so many edits were stored (None: as many as are
    # in the batch); images are blended with up to this much of another sample's.
    routing_skip_same: bool = False
    routing_repository_n: int | None = None
    routing_blend: float = 0.0
    # Every so manyth training subject teaches image routing's sentinel and nothing else of it, all
    # others everything but the sentinel (editor/objective.py); None, as released: no difference
    calibration_every: int | None = None
    steps_n: int = 40_000
    learning_rate: float = 1e-4
    lr_cut_steps: tuple[int, ...] = (10_000,)
    lr_cut_rate: float = 0.1
    warmup_steps: int = 0
    cosine: bool = False  # decay to zero over steps_n instead of the cuts
    clip_norm: float | None = None
    muon: bool = False  # Muon on matrices and Adam on the rest, instead of Adam on everything
    # Rates as multiples of `learning_rate` (docs/method.md): both extractors, where rows of experts
    # look, and the value maps of `down`, whose entries are small, and of `up`, whose are large.
    rate_extractor: float = 1.0
    rate_image: float | None = None  # of the extractors, what reads images (None: as the rest)
    rate_sentinel: float | None = None  # the sentinel, likewise
    rate_attention: float = 1.0
    rate_down: float = 1.0
    rate_up: float = 1.0
    # Generators start where frozen states say (training/addressing.py), the gates of `down` this
    # far open; None: at random, as released
    gate_gain: float | None = None
    fit: FitConfig = field(default_factory=FitConfig)
    # Norms in front of text start so that every feature has mean 0 and variance 1
    # (training/statistics.py); False: at scale 1 and bias 0, as released
    standardise: bool = False
    # Image routing starts from mean images (training/image_start.py), at a threshold that lets
    # through so many wrong experts of `routing_repository_n` ones; None: at random, as released
    start_false_hits: float | None = None
    weight_reliability: float = 1.0
    weight_generality: float = 1.0
    weight_locality: float = 1.0
    weight_soft_routing: float = 1.0
    weight_hard_routing: float = 1.0
    seed: int = 0

    def __post_init__(self):
        """Refuse what no step can be made of; a batch of one has no routing negatives."""
        if self.standardise and self.gate_gain is None:
            raise ValueError("standardise=True needs gate_gain: both are part of a fitted start")
        if self.batch_n < 2:
            raise ValueError(
                f"batch_n={self.batch_n}: routing losses need at least 2 samples a batch"
            )
        if self.cosine and self.warmup_steps >= self.steps_n:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} leaves none of steps_n={self.steps_n}: use fewer"
            )
        for name in ("accumulate_n", "answers_n"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: 1 or more")
        if self.routing_n is not None and self.routing_n < self.batch_n:
            raise ValueError(f"routing_n={self.routing_n} is below batch_n={self.batch_n}")
        if not 0 <= self.routing_blend <= 1:
            raise ValueError(f"routing_blend={self.routing_blend}: a share between 0 and 1")
        if self.calibration_every is not None and self.calibration_every < 2:
            raise ValueError(f"calibration_every={self.calibration_every}: 2 or more, or None")
        if self.start_false_hits is not None and not self.routing_repository_n:
            raise ValueError("start_false_hits needs routing_repository_n: so many experts")
        if self.routing_repository_n is not None and self.routing_repository_n < 1:
            raise ValueError(f"routing_repository_n={self.routing_repository_n}: 1 edit or more")


@dataclass(frozen=True, kw_only=True)
class EditMixture:
    """What MojiEdit editor training draws; shares are probabilities."""

    # T of a step's rows and the share of the steps that have it: a step's samples need more than
    # the T before and at most this one, and the shares are those of the samples that do. None:
    # always the same T, for the longest prompt and answer of the dataset's budget.
    lengths: tuple[tuple[int, float], ...] = ()
    any_fact_share: float = 0.15  # targets that are a value of any fact, not of the same one
    spliced_share: float = 0.6  # targets that begin as one value and end as another
    paraphrase_share: float = 0.5  # wordings that are never edit prompts in evaluation
    swap_share: float = 0.5  # edits on the second drawing, with the first as image generality
    sibling_share: float = 0.05  # samples on the same entity as the sample before, other fact
    alike_share: float = 0.2  # samples on a look-alike of the sample before (same subcategory)
    look_alike_share: float = 0.25  # image locality: same subcategory, same question
    same_image_share: float = 0.0  # image locality: the edited image, another question
    # Samples that ask a free question about any picture (data/open_world.py), where files of
    # questions are given. Their image locality is the edited picture with another question, or any
    # other picture with the same question (`look_alike_share`) or another.
    open_share: float = 0.0
    open_same_image_share: float = 0.5
    open_any_answer_share: float = 0.5  # targets that are another question's answer

    def __post_init__(self):
        """Refuse shares that are none."""
        for name in ("open_share", "open_same_image_share", "open_any_answer_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How the small `tiny` backbone is trained from scratch."""

    images_n: int = 32  # images (half as many entities, both drawings) a step
    scenes_n: int = 0  # scenes of two drawings side by side a step
    steps_n: int = 5_000
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.72  # of the steps: linear decay to zero at the end, constant before
    weight_decay: float = 0.01
    paraphrase_share: float = 0.5  # questions in wordings that are never edit prompts
    # Only entities of the splits that learn compositions (data/composed.py): rows with questions of
    # two facts and a caption; those questions that are answered silently, or about a stated fact.
    composed_share: float = 0.0
    silent_share: float = 0.25
    stated_share: float = 0.25
    view_share: float = 0.0  # drawings of editor_train entities shown in a random view
    pairs_n: int = 48  # editor_train entities a step whose two drawings are contrasted
    collages_n: int = 0  # of them, two views of a collage of drawings (data/augment.py) instead
    contrastive_weight: float = 1.0
    contrastive_temperature: float = 0.05
    # What experts read at the edit layer: which token an answer state is, which one came before it,
    # and how many (docs/mojiedit.md); learned on answers that are strange to the question, like
    # those of edits, in so many rows a step.
    strange_n: int = 16
    token_weight: float = 0.1
    previous_weight: float = 0.3
    index_weight: float = 1.0
    seed: int = 0

    def __post_init__(self):
        """Strange rows have the images of other rows; collages take the place of other pairs."""
        if not 0 <= self.collages_n < self.pairs_n:
            raise ValueError(f"collages_n={self.collages_n}: from 0 to below {self.pairs_n} pairs")
        if self.collages_n and not self.view_share:
            raise ValueError("collages are contrasted in random views: view_share is 0")
        if not 1 <= self.strange_n <= self.images_n:
            raise ValueError(f"strange_n={self.strange_n}: from 1 to images_n={self.images_n}")


@dataclass(frozen=True, kw_only=True)
class BridgeTrainConfig:
    """How a bridge is trained between a frozen tower and a frozen decoder (LLaVA's first stage)."""

    # which rows are drawn (its rates and terms are those of training everything)
    data: PretrainConfig = field(
        default_factory=lambda: PretrainConfig(images_n=4, pairs_n=64, strange_n=1)
    )
    length_n: int = 160  # T of a packed row
    answers_n: int = 80  # most positions of a row whose logits are computed
    steps_n: int = 3_000
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    contrastive_weight: float = 1.0
    contrastive_temperature: float = 0.02
    # of the variance of the squared lengths of pooled states, in units of the temperature: hard
    # routing multiplies them, so that an uneven length is a wrong score
    length_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LengthBudget:
    """Static token budgets: the longest prompt and answer that fit a batch."""

    prompt_n: int = 32
    answer_n: int = 24


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Which benchmark, and the token budgets its records are padded to."""

    name: str = "mojiedit"
    budget: LengthBudget = field(default_factory=LengthBudget)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How much a lifelong evaluation takes where nobody says."""

    cases_n: int | None = None  # cases that marks below it count; None: as many as the largest mark


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A dataset, a backbone and an editor that belong together, with their training recipes."""

    dataset: DatasetConfig
    backbone: BackboneConfig
    editor: EditorConfig
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    bridge_train: BridgeTrainConfig | None = None  # only the bridge is trained, the rest is frozen
    editor_train: EditorTrainConfig = field(default_factory=EditorTrainConfig)
    edit_mixture: EditMixture = field(default_factory=EditMixture)
    open_mixture: EditMixture | None = None  # where free questions are given (None: edit_mixture)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def as_dict(config) -> dict:
    """A config as plain nested dicts, for JSON; an enum as its value."""

    def plain(fields: list[tuple]) -> dict:
        return {k: v.value if isinstance(v, Enum) else v for k, v in fields}

    return dataclasses.asdict(config, dict_factory=plain)
