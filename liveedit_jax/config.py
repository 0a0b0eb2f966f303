"""Frozen configurations of plain values; `presets` has the named ones.

Make a variant with `dataclasses.replace`. A field name that does not exist raises a TypeError.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum

from liveedit_jax.backbone_config import BackboneConfig

REFINE_N = 20  # the most steps that sessions and the program refine an edit by, unless told


@dataclass(frozen=True, kw_only=True)
class EditorConfig:
    """The sizes and switches of LiveEdit (paper section 4; letters as in `types`)."""

    module_width: int = 1024  # M
    heads_n: int = 8
    generator_heads_n: int | None = None  # attention heads of the two generators; None: `heads_n`
    rank: int = 4  # R
    queries_n: int = 4  # E
    expert_scale: float = 5.0  # s: expert bodies are divided by s * sqrt(R)
    norm_eps: float = 1e-5
    top_k: int = 8  # K: experts applied per query; exact as long as a query hits at most K
    # Initialise both extractors with the same weights, so that a query's key is close to the key
    # of a similar edit from the start.
    paired_init: bool = False
    # Multiply the initial vision value maps of both extractors by this factor. Where the states
    # already tell an entity from all others, routing then has a margin from the first step.
    vision_init_scale: float = 1.0
    # Routing of our own (editor/directions.py). None, as in the paper: extractors make the keys.
    # Entries of a vision key that is a direction, compared by its cosine.
    image_direction_n: int | None = None
    image_bands_n: int = 1  # bands of consecutive vision tokens that such a key describes apart
    # Entries of the part of a text key that is a direction.
    text_direction_n: int | None = None
    # In the softmax over hits, a text score counts together with this many times the margin by
    # which the picture passed its threshold. 0, as in the paper: text alone.
    joint_scale: float = 0.0
    # Refining of our own (editor/refine.py). An expert that does not yet let the model answer its
    # target gets at most this many steps of Adam. 0, as in the paper: none.
    refine_n: int = 0
    refine_rate: float = 0.1  # their rate, in units of the root mean square of the expert's `up`
    refine_margin: float = 3.0  # logits by which each token of the target has to lead all others
    # Differences between the paper and the released code; both values of each are tested.
    official_double_layer: bool = False  # released training runs the edit layer twice
    locality_kl: str = "edited_to_original"  # or "original_to_edited", as the paper writes
    train_eos: bool = True  # released: False

    @property
    def vision_key_n(self) -> int:
        """Return the number of entries of a vision key."""
        attended_n = self.queries_n * self.module_width
        return attended_n if self.image_direction_n is None else self.image_direction_n

    @property
    def text_key_n(self) -> int:
        """Return the number of entries of a text key."""
        attended_n = self.queries_n * self.module_width
        return attended_n if self.text_direction_n is None else self.text_direction_n + 1

    @property
    def attends(self) -> bool:
        """Return whether any routing key is made by the paper's extractors."""
        return self.image_direction_n is None or self.text_direction_n is None

    def __post_init__(self):
        """Refuse values that no code path supports."""
        if self.locality_kl not in ("edited_to_original", "original_to_edited"):
            raise ValueError(
                f"locality_kl={self.locality_kl!r}: use 'edited_to_original' or "
                "'original_to_edited'"
            )
        for name in ("image_direction_n", "text_direction_n"):
            n = getattr(self, name)
            if n is not None and n < 2:
                raise ValueError(f"{name}={n}: a direction needs 2 entries or more")
        if self.image_bands_n < 1:
            raise ValueError(f"image_bands_n={self.image_bands_n}: 1 band or more")
        if self.refine_n < 0:
            raise ValueError(f"refine_n={self.refine_n}: 0 steps or more")
        if self.refine_rate <= 0 or self.refine_margin < 0:
            raise ValueError("refine_rate is above 0, and refine_margin 0 or more")
        for name in ("heads_n", "generator_heads_n"):
            heads_n = getattr(self, name)
            if heads_n is not None and self.module_width % heads_n:
                raise ValueError(
                    f"module_width={self.module_width} is not a multiple of {name}={heads_n}"
                )


class Precision(Enum):
    """The number format in which a repository stores vectors; arithmetic is in float32."""

    F32 = "float32"
    BF16 = "bfloat16"
    INT8 = "int8"


@dataclass(frozen=True, kw_only=True)
class StorageConfig:
    """The storage format of a repository's routing keys and expert bodies."""

    keys: Precision = Precision.F32  # routing reads all of them
    bodies: Precision = Precision.F32  # only those of K experts per query are read
    bodies_on_host: bool = False  # in host memory; the K bodies of a query are fetched from there


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The number of devices along each axis of a mesh."""

    data: int = 1  # splits the batch; weights are replicated
    fsdp: int = 1  # splits batch and weights; the weights of a layer are gathered when it runs
    tensor: int = 1  # splits inside a layer: attention heads and MLP columns
    expert: int = 1  # splits the rows of the repository; otherwise it acts like fsdp


@dataclass(frozen=True, kw_only=True)
class InitFitConfig:
    """The fit to frozen states that initialises the generators (training/addressing.py)."""

    batches_n: int = 500  # training batches whose edits are fitted to
    look_steps_n: int = 2_500  # steps of the first phase, which fits the looks alone
    write_steps_n: int = 3_000  # steps of the second phase, which fits looks and gates
    look_decay: float = 0.0  # AdamW weight decay in the first phase
    write_decay: float = 0.0  # AdamW weight decay in the second phase


@dataclass(frozen=True, kw_only=True)
class DirectionsFitConfig:
    """The fit of routing keys that are directions (training/directions.py)."""

    # Pictures that the map of images is fitted to, beside the training drawings: each drawing in
    # this many other colours, so many collages, and so many further views of every picture.
    recoloured_n: int = 2
    collages_n: int = 1_500
    views_n: int = 6
    image_steps_n: int = 1_500
    image_batch_n: int = 384  # pictures of a step, which are each other's negatives
    image_learning_rate: float = 1e-3
    image_weight_decay: float = 0.03
    image_dropout: float = 0.2
    # How many of all live edits' pictures may pass the threshold wrongly, on average.
    image_false_hits: float = 0.5
    groups_n: int = 1_000  # groups of questions that the prompts' map is fitted to
    asked_n: int = 6  # questions of a group
    facts_share: float = 0.35  # groups of MojiEdit's trained facts
    intents_share: float = 0.35  # groups of intents (data/intents.py)
    free_share: float = 0.3  # groups of free questions, where there are any
    near_share: float = 0.5  # intents that ask almost the same as another one of their group
    steps_n: int = 2_000
    batch_groups_n: int = 24  # groups of a step, all of whose questions are each other's negatives
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    dropout: float = 0.05
    text_false_share: float = 0.01  # pairs of a group's questions with a text score above 0
    text_slope: float = 40.0  # of the text score, by the cosine

    def __post_init__(self):
        """Refuse what cannot be drawn."""
        if not 2 <= self.asked_n <= 9:
            raise ValueError(f"asked_n={self.asked_n}: from 2 to 9, MojiEdit has 9 trained facts")
        if not 1 <= self.batch_groups_n <= self.groups_n:
            raise ValueError(f"batch_groups_n={self.batch_groups_n}: 1 to groups_n={self.groups_n}")
        if not 0 < self.text_false_share < 1 or not 0 <= self.dropout < 1:
            raise ValueError("text_false_share and dropout are shares, the first of them above 0")
        if not 0 < self.image_false_hits < 10 or not 0 <= self.image_dropout < 1:
            raise ValueError("image_false_hits is above 0 and below 10, image_dropout a share")
        if self.views_n < 1 or self.image_batch_n < 2:
            raise ValueError("views_n is 1 or more, image_batch_n 2 or more")


@dataclass(frozen=True, kw_only=True)
class EditorTrainConfig:
    """The training recipe of an editor; the defaults are the paper's."""

    batch_n: int = 8  # B, samples per batch
    accumulate_n: int = 1  # batches per step, whose gradients are averaged
    # The number of positions of a row at which logits are computed. It must be at least one more
    # than the longest answer has tokens. None: all positions that can follow the image.
    answers_n: int | None = None
    # Samples in the routing losses; the first B of them are also those of the other losses.
    # None: B.
    routing_n: int | None = None
    # Changes to the hard routing loss (docs/method.md). Samples about the same subject are not each
    # other's negatives.
    routing_skip_same: bool = False
    # Negatives weigh as if this many edits were stored; None: as many as the batch has.
    routing_repository_n: int | None = None
    # Images are blended with up to this share of another sample's image.
    routing_blend: float = 0.0
    steps_n: int = 40_000
    learning_rate: float = 1e-4
    lr_cut_steps: tuple[int, ...] = (10_000,)
    lr_cut_rate: float = 0.1  # multiplies the learning rate after each of `lr_cut_steps`
    warmup_steps: int = 0
    cosine: bool = False  # cosine decay to zero over `steps_n`, instead of the cuts
    clip_norm: float | None = None
    muon: bool = False  # Muon for matrices and Adam for the rest; False: Adam for everything
    # Learning rates of parts, as multiples of `learning_rate` (docs/method.md). None: that of the
    # extractors.
    rate_extractor: float = 1.0  # both extractors
    rate_image: float | None = None  # the parts of the extractors that read images
    rate_sentinel: float | None = None  # the sentinel
    rate_attention: float = 1.0  # the queries and keys of the generators
    rate_down: float = 1.0  # value map of the generator of `down`, whose entries are small
    rate_up: float = 1.0  # value map of the generator of `up`, whose entries are large
    # Initialise the generators by a fit to frozen states (training/addressing.py); the gates of
    # `down` open this far. None: at random.
    gate_gain: float | None = None
    fit: InitFitConfig = field(default_factory=InitFitConfig)
    # Initialise the LayerNorms in front of text attention so that every feature has mean 0 and
    # variance 1 (training/statistics.py). False: scale 1 and bias 0.
    standardise: bool = False
    directions: DirectionsFitConfig = field(default_factory=DirectionsFitConfig)
    # Initialise image routing from the subjects' mean images (training/image_start.py), with a
    # threshold at which a query hits this many wrong experts among `routing_repository_n`.
    # None: at random.
    start_false_hits: float | None = None
    weight_reliability: float = 1.0
    weight_generality: float = 1.0
    weight_locality: float = 1.0
    weight_soft_routing: float = 1.0
    weight_hard_routing: float = 1.0
    seed: int = 0

    def __post_init__(self):
        """Refuse values that cannot be trained with; a batch of one has no routing negatives."""
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
        if self.start_false_hits is not None and not self.routing_repository_n:
            raise ValueError("start_false_hits needs routing_repository_n: so many experts")
        if self.routing_repository_n is not None and self.routing_repository_n < 1:
            raise ValueError(f"routing_repository_n={self.routing_repository_n}: 1 edit or more")


@dataclass(frozen=True, kw_only=True)
class EditMixture:
    """The distribution of MojiEdit's editor training samples; shares are probabilities."""

    # Row lengths T, shortest first, each with the share of the steps that use it. A step draws
    # samples that need at most its T and more than the next shorter one. Empty: one T for all
    # steps, with room for the longest prompt and answer of the dataset's budget.
    lengths: tuple[tuple[int, float], ...] = ()
    any_fact_share: float = 0.15  # the target is a value of any fact, not of the one asked about
    spliced_share: float = 0.6  # the target begins like one value and ends like another
    paraphrase_share: float = 0.5  # the wording is never an edit prompt in evaluation
    swap_share: float = 0.5  # the edit is on the second drawing, the first tests generality
    sibling_share: float = 0.05  # another fact about the entity of the sample before
    alike_share: float = 0.2  # about a look-alike (same subcategory) of the sample before
    look_alike_share: float = 0.25  # image locality: a look-alike with the same question
    same_image_share: float = 0.0  # image locality: the edited image with another question
    # The share of samples that ask a free question about any picture (data/open_world.py), where
    # files of questions are given. Image locality is then the edited picture with another question
    # (`open_same_image_share`), or another picture with the same question (`look_alike_share`) or
    # with another one.
    open_share: float = 0.0
    open_same_image_share: float = 0.5
    open_any_answer_share: float = 0.5  # the target is the answer to another question

    def __post_init__(self):
        """Refuse shares outside 0 to 1."""
        for name in ("open_share", "open_same_image_share", "open_any_answer_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """The training recipe of the small `tiny` backbone, from scratch."""

    images_n: int = 32  # images per step: both drawings of half as many entities
    scenes_n: int = 0  # scenes per step: two drawings side by side
    steps_n: int = 5_000
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.72  # the last share of the steps, with linear decay to zero
    weight_decay: float = 0.01
    paraphrase_share: float = 0.5  # questions in wordings that are never edit prompts
    text_n: int = 6  # text-only rows per step
    english_n: int = 5  # of the five English facts, asked in each row about an image
    languages_n: int = 4  # of the eight language facts, asked in each row about an image
    # For entities of the splits that learn compositions (data/composed.py): the share of rows with
    # two-fact questions and a caption, and the shares of those questions that are answered without
    # naming the first fact (silent) or that state a first fact themselves.
    composed_share: float = 0.0
    silent_share: float = 0.25
    stated_share: float = 0.25
    view_share: float = 0.0  # drawings of editor_train entities that are shown in a random view
    pairs_n: int = 48  # contrastive pairs per step: the two drawings of an editor_train entity
    collages_n: int = 0  # pairs that are two views of a collage (data/augment.py) instead
    contrastive_weight: float = 1.0
    contrastive_temperature: float = 0.05
    # Auxiliary losses on the states that experts read at the edit layer (docs/mojiedit.md): predict
    # an answer token, the token before it, and its index. They use this many rows per step, whose
    # answers do not belong to the question, as in edits.
    strange_n: int = 16
    token_weight: float = 0.1
    previous_weight: float = 0.3
    index_weight: float = 1.0
    seed: int = 0

    def __post_init__(self):
        """Refuse counts that do not fit together.

        Rows with strange answers reuse the images of other rows, and collages replace pairs.
        """
        if not 0 <= self.collages_n < self.pairs_n:
            raise ValueError(f"collages_n={self.collages_n}: from 0 to below {self.pairs_n} pairs")
        if self.collages_n and not self.view_share:
            raise ValueError("collages are contrasted in random views: view_share is 0")
        if not 1 <= self.strange_n <= self.images_n:
            raise ValueError(f"strange_n={self.strange_n}: from 1 to images_n={self.images_n}")


@dataclass(frozen=True, kw_only=True)
class BridgeTrainConfig:
    """The training recipe of a bridge between frozen tower and decoder (LLaVA's first stage)."""

    # which rows are drawn; its learning rates and loss weights are not used
    data: PretrainConfig = field(
        default_factory=lambda: PretrainConfig(images_n=4, pairs_n=64, strange_n=1)
    )
    length_n: int = 160  # T of a packed row
    answers_n: int = 80  # positions of a row at which logits are computed
    steps_n: int = 3_000
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    contrastive_weight: float = 1.0
    contrastive_temperature: float = 0.02
    # Weight of the variance of the squared norms of pooled states, in units of the temperature.
    # Hard routing takes dot products of such states, so uneven norms would distort its scores.
    length_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class LengthBudget:
    """The numbers of tokens that the longest prompt and the longest answer may have."""

    prompt_n: int = 32
    answer_n: int = 24


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A benchmark and its token budget."""

    name: str = "mojiedit"
    budget: LengthBudget = field(default_factory=LengthBudget)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Defaults of a lifelong evaluation."""

    # The number of cases that marks below it are computed on; None: the largest mark.
    cases_n: int | None = None


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A dataset, a backbone and an editor that belong together, and how they are trained."""

    dataset: DatasetConfig
    backbone: BackboneConfig
    editor: EditorConfig
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    bridge_train: BridgeTrainConfig | None = None  # set: only the bridge is pretrained
    editor_train: EditorTrainConfig = field(default_factory=EditorTrainConfig)
    edit_mixture: EditMixture = field(default_factory=EditMixture)
    open_mixture: EditMixture | None = None  # used with free questions; None: `edit_mixture`
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


def as_dict(config) -> dict:
    """Convert a config to nested dicts for JSON, with enums replaced by their values.

    Examples:
        >>> as_dict(StorageConfig())
        {'keys': 'float32', 'bodies': 'float32', 'bodies_on_host': False}
    """

    def plain(fields: list[tuple]) -> dict:
        return {k: v.value if isinstance(v, Enum) else v for k, v in fields}

    return dataclasses.asdict(config, dict_factory=plain)
