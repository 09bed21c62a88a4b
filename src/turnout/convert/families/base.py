"""What a family of checkpoints is: its configuration, its table of tensors, and what it lacks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from turnout.config.errors import UserError
from turnout.config.model import ModelConfig
from turnout.convert.rules import Rule

Layout = Literal["experts", "fused"]

# Fields that no logit depends on, whatever the family.
HARMLESS = frozenset(
    (
        *("_name_or_path", "architectures", "auto_map", "transformers_version", "torch_dtype"),
        *("dtype", "model_type", "use_cache", "output_router_logits", "output_past"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("initializer_range", "initializer_factor", "attention_dropout", "tokenizer_class"),
        *("router_aux_loss_coef", "router_z_loss_coef", "task_specific_params", "n_positions"),
        *("is_encoder_decoder", "is_decoder", "add_cross_attention", "add_router_probs"),
        *("return_dict", "output_attentions", "output_hidden_states", "use_return_dict"),
        *("classifier_dropout", "max_position_embeddings", "pretraining_tp", "id2label"),
        "quantization_config",
        *("label2id", "gradient_checkpointing", "aux_loss_alpha", "seq_aux"),
        *(
            "problem_type",
            "chunk_size_feed_forward",
            "is_gated_act",
            "dense_act_fn",
        ),
    )
)


class Read:
    """The values of a ``config.json``, which were asked for, and what is to be said of them.

    Attributes:
        remarks: for people, in the order in which they were made.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._table = table
        self._asked: set[str] = set()
        self.remarks: list[str] = []

    def remark(self, text: str) -> None:
        """Keeps what somebody who converts should know."""
        self.remarks.append(text)

    def value(self, name: str, default: Any = None) -> Any:
        """As it stands there; ``default`` where it is missing or null."""
        self._asked.add(name)
        found = self._table.get(name)
        return default if found is None else found

    def whole(self, name: str, default: int | None = None) -> int:
        """A number of things.

        Raises:
            UserError: it is missing, is no whole number, or is not in 1 .. 2^31 - 1.
        """
        found = self.value(name, default)
        if type(found) is not int or not 1 <= found < 2**31:
            raise UserError(f"config.json: {name} = {found!r}: must be a whole number from 1")
        return found

    def count(self, name: str) -> int:
        """A number of things that there may be none of, as where it is missing.

        Raises:
            UserError: it is no whole number, or is not in 0 .. 2^16 - 1.
        """
        found = self.value(name, 0)
        if type(found) is not int or not 0 <= found < 2**16:
            raise UserError(f"config.json: {name} = {found!r}: must be a whole number, 0 or more")
        return found

    def number(self, name: str, default: float | None = None) -> float:
        """Raises UserError where it is missing or no number."""
        found = self.value(name, default)
        if type(found) not in (int, float):
            raise UserError(f"config.json: {name} = {found!r}: must be a number")
        return float(found)

    def flag(self, name: str, default: bool = False) -> bool:
        """Raises UserError where it is neither true nor false."""
        found = self.value(name, default)
        if type(found) is not bool:
            raise UserError(f"config.json: {name} = {found!r}: must be true or false")
        return found

    def layers(self, name: str) -> tuple[int, ...]:
        """A list of layers; empty where it is missing."""
        found = self.value(name, [])
        if not isinstance(found, list) or any(type(each) is not int for each in found):
            raise UserError(f"config.json: {name} = {found!r}: must be a list of layers")
        return tuple(found)

    def only(self, name: str, *allowed: Any, why: str) -> None:
        """Refuses a value that this version has no model for.

        Raises:
            UserError: the value is none of ``allowed`` (the first is what a missing one means).
        """
        found = self.value(name, allowed[0])
        if found not in allowed:
            words = " or ".join(repr(each) for each in allowed)
            raise UserError(f"config.json: {name} = {found!r}: must be {words}; {why}")

    def unread(self) -> list[str]:
        """Fields that nobody asked for and that are not known to be harmless."""
        return sorted(self._table.keys() - self._asked - HARMLESS)


class Family(ABC):
    """A kind of Hugging Face checkpoint.

    Attributes:
        model_type: as ``config.json`` names it.
        architectures: classes whose checkpoints are whole; the first is written.
        ignored: patterns of tensors that are left out, and why.
        copies: patterns of tensors that must equal another one, and which.
        kept: fields that a model has no place for, taken from the checkpoint that it came from.
        beyond: why tensors of layers behind the last are left out; empty where they are not.
        loaded: patterns of tensors that transformers' model has by another name than its files, and
            that name.
        has_class: whether transformers has a model of the family.
    """

    model_type: str
    architectures: tuple[str, ...]
    ignored: Mapping[str, str] = {}
    copies: Mapping[str, str] = {}
    kept: frozenset[str] = frozenset()
    beyond: str = ""
    loaded: Mapping[str, str] = {}
    has_class: bool = True

    @abstractmethod
    def read(self, values: Read, names: frozenset[str]) -> ModelConfig:
        """The model of a configuration and of a checkpoint with tensors of these names.

        Raises:
            UserError: it asks for something that this version has no model for.
        """

    @abstractmethod
    def write(self, config: ModelConfig) -> dict[str, Any] | None:
        """The configuration of a model; None where it is not of this family."""

    @abstractmethod
    def rules(self, config: ModelConfig, layout: Layout, names: frozenset[str]) -> Sequence[Rule]:
        """The table of tensors, with experts in one of two layouts; ``names`` are those of the
        checkpoint that is read, and none where one is written."""

    @abstractmethod
    def layout(self, names: frozenset[str]) -> Layout:
        """The layout in which a checkpoint with these tensors keeps its experts."""
