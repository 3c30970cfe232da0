"""LoraPolicy: a frozen Transformers model with low-rank adapters.

y = W x + (alpha / rank) B A x (Hu et al. 2021, arXiv:2106.09685, equation 3). W is frozen, and B is
zero at first: training begins exactly at the model. The adapters are those of the library peft.
"""

import copy
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from textrl_agents.policies.causal_lm import CausalLMPolicy
from textrl_agents.policies.distribution import TokenDistribution
from textrl_agents.policies.network import load_reference, save_reference
from textrl_agents.policies.sampling import PLAIN, Sampling, read_sampling
from textrl_envs.errors import InvalidInputError, nearest
from textrl_envs.language_models.base import LanguageModel
from textrl_envs.language_models.causal import CausalLanguageModel
from textrl_envs.language_models.decoder import load_causal_lm
from textrl_envs.language_models.prefix_reader import PrefixReader, weights_version

__all__ = ["Lora", "LoraPolicy"]

ADAPTERS = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What peft's own files say before a layer's name."""


@dataclass(frozen=True, slots=True)
class Lora:
    """The shape of the adapters.

    Args:
        rank: columns of B, rows of A.
        alpha: the adapters' part is multiplied by alpha / rank.
        targets: names of the layers that get an adapter, such as ("q_proj", "v_proj"); None takes
            all linear layers but the output layer.

    Raises:
        InvalidInputError: a rank or alpha that is no whole number of at least 1.

    >>> Lora.of({"rank": 4})
    Lora(rank=4, alpha=16, targets=None)
    """

    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("rank", "alpha"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidInputError(
                    f"{name} must be a whole number of at least 1; got {value!r}."
                )

    @classmethod
    def of(cls, settings: "Self | Mapping[str, Any]") -> Self:
        """Makes it of settings by name.

        Raises:
            InvalidInputError: an unknown setting, or one outside its range.
        """
        if isinstance(settings, cls):
            return settings
        if not isinstance(settings, Mapping):
            raise InvalidInputError(
                f"lora must be a Lora, or settings by name such as {{'rank': 8}}; got {settings!r}."
            )
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise InvalidInputError(f"lora has no setting {name!r}. {nearest(name, known)}")
        targets = settings.get("targets")
        return cls(**{**settings, "targets": None if targets is None else tuple(targets)})


class LoraPolicy(CausalLMPolicy):
    """Adapters and a value head are trained; the model under them is frozen, and may be shared.

    Tokens are drawn from a second trunk whose adapted layers hold W + ΔW, so that LeanTrunk can
    read it; it is brought up to date when an adapter has changed. What is not adapted is shared.

    Args:
        model: any Transformers causal LM. Adapters are put into it in place.
        lora: the shape of the adapters.
        seed: of their first weights.
        vocabulary_size: V of the environment; None takes the model's.
        sampling: how the distribution is made of the logits.
        reference: what `sampling` mixes in, if it does. It is shared, and not trained.
        device: "auto", "cpu", "cuda", ...

    Raises:
        InvalidInputError: peft is not installed, targets that the model has not or that lie
            outside its trunk, or what `CausalLMPolicy` refuses.
    """

    default_learning_rate: ClassVar[float] = 1e-3

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - any Transformers causal LM
        *,
        lora: Lora = Lora(),
        seed: int = 0,
        vocabulary_size: int | None = None,
        sampling: Sampling = PLAIN,
        reference: LanguageModel | None = None,
        device: str = "auto",
    ) -> None:
        _check_peft()
        super().__init__(
            model,
            vocabulary_size=vocabulary_size,
            sampling=sampling,
            reference=reference,
            device=device,
        )
        self.lora = lora
        plain = _sharing_copy(self.trunk)
        self._base = (_sharing_copy(self.model),)  # within a tuple it is no part of the network
        _put_adapters(self.model, self.trunk, lora, seed)
        self._merged = _MergedTrunk(plain, self.trunk)
        self._decoder = replace(self._decoder, reader=PrefixReader(plain))

    @classmethod
    def on_reference(
        cls,
        reference: CausalLanguageModel,
        *,
        lora: Lora = Lora(),
        seed: int = 0,
        sampling: Sampling = PLAIN,
    ) -> Self:
        """Returns a policy that has its frozen weights in common with the reference."""
        return cls(
            _sharing_copy(reference.model),
            lora=lora,
            seed=seed,
            vocabulary_size=reference.vocabulary_size,
            sampling=sampling,
            reference=reference if sampling.reference_share else None,
            device=str(next(reference.model.parameters()).device),
        )

    def without_adapters(self) -> CausalLanguageModel:
        """Returns the frozen model, adapters switched off, as a reference; no weight is copied."""
        return CausalLanguageModel(
            self._base[0], vocabulary_size=self.vocabulary_size, device=str(self.device)
        )

    def _read(self, obs: Any) -> tuple[TokenDistribution, Tensor]:  # noqa: ANN401 - either form
        self._merged.refresh()
        return super()._read(obs)

    def merged(self) -> CausalLMPolicy:
        """Returns an ordinary policy of one model, whose weights hold the adapters' part."""
        merged = CausalLMPolicy(
            copy.deepcopy(self._base[0]),
            vocabulary_size=self.vocabulary_size,
            sampling=self.sampling,
            reference=self.reference,
            device=str(self.device),
        )
        self._merged.refresh()
        merged.trunk.load_state_dict(self._merged.trunk.state_dict())
        merged.value_head.load_state_dict(self.value_head.state_dict())
        return merged

    def save(self, folder: Path) -> None:
        """Writes adapters, as peft does, value head, and where the frozen model is.

        Is the model from a folder or a hub id, that name is written; else the model itself, to
        the folder `base`.
        """
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        adapters = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        save_file({PREFIX + n: w for n, w in adapters.items()}, folder / ADAPTERS)
        _peft_config(self.trunk, self.lora).save_pretrained(folder)
        save_file(self.value_head.state_dict(), folder / "value_head.safetensors")
        if self.reference is not None:
            save_reference(self.reference, folder)
        self.write_about(
            folder,
            kind="lora",
            vocabulary_size=self.vocabulary_size,
            lora=asdict(self.lora),
            base=self._save_base(folder),
            has_reference=self.reference is not None,
        )

    def _save_base(self, folder: Path) -> str:
        """Returns where the frozen model is: the folder or hub id it is from, or "base"."""
        (base,) = self._base
        name = str(base.config.name_or_path)
        # Models are loaded in float32: one in other numbers is not what lies there.
        if name and base.dtype == torch.float32:
            return str(Path(name).resolve()) if Path(name).is_dir() else name
        base.save_pretrained(folder / "base")
        return "base"

    @classmethod
    def load(cls, folder: Path, *, device: str = "auto") -> Self:
        """Reads what `save` wrote."""
        _check_peft()
        from peft import set_peft_model_state_dict

        about = json.loads((folder / "policy.json").read_text())
        base = str(folder / "base") if about["base"] == "base" else about["base"]
        reference = None
        if about["has_reference"]:
            reference = load_reference(folder, about["vocabulary_size"])
        policy = cls(
            load_causal_lm(base),
            lora=Lora.of(about["lora"]),
            vocabulary_size=about["vocabulary_size"],
            sampling=read_sampling(about),
            reference=reference,
            device=device,
        )
        adapters = load_file(folder / ADAPTERS)
        set_peft_model_state_dict(
            policy.model, {n.removeprefix(PREFIX): w for n, w in adapters.items()}
        )
        head = load_file(folder / "value_head.safetensors", device=str(policy.device))
        policy.value_head.load_state_dict(head)
        return policy


class _MergedTrunk:
    """A trunk without adapters, whose adapted layers hold W + ΔW.

    Args:
        trunk: without adapters, and with weights in common with `adapted`.
        adapted: the same with adapters.
    """

    def __init__(self, trunk: nn.Module, adapted: nn.Module) -> None:
        from peft.tuners.lora import LoraLayer

        layers = {n: m for n, m in adapted.named_modules() if isinstance(m, LoraLayer)}
        self.trunk = trunk
        self._pairs: list[tuple[Any, Any]] = [
            (m, trunk.get_submodule(n)) for n, m in layers.items()
        ]
        for _, module in self._pairs:
            module.weight = nn.Parameter(module.weight.detach().clone(), requires_grad=False)
        self._adapters = tuple(p for p in adapted.parameters() if p.requires_grad)
        self._seen: tuple[int, ...] = ()

    @torch.no_grad()
    def refresh(self) -> None:
        """Makes the sums again, if an adapter has changed."""
        version = weights_version(self._adapters)
        if version != self._seen:
            for layer, module in self._pairs:
                module.weight.copy_(layer.weight + layer.get_delta_weight("default"))
            self._seen = version


def _sharing_copy(model: Any) -> Any:  # noqa: ANN401
    """Returns a model of its own modules, which have their weights in common with the given."""
    return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})


def _put_adapters(model: Any, trunk: nn.Module, lora: Lora, seed: int) -> None:  # noqa: ANN401
    """Puts adapters into a model, in place, and freezes the rest."""
    from peft import inject_adapter_in_model

    inside = set(trunk.modules())
    outside = {n.rpartition(".")[2] for n, m in model.named_modules() if m not in inside}
    if wrong := outside.intersection(lora.targets or ()):
        raise InvalidInputError(
            f"Adapters must lie within the trunk; got targets={lora.targets}. "
            f"Leave out {', '.join(sorted(wrong))}."
        )
    config = _peft_config(trunk, lora)
    try:
        # The global generator is lent to the initialisation alone, and given back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model)
    except ValueError as error:
        raise InvalidInputError(f"No adapter can be put into the model: {error}") from error


def _peft_config(trunk: nn.Module, lora: Lora) -> Any:  # noqa: ANN401
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules="all-linear" if lora.targets is None else list(lora.targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in trunk.modules()),
    )


def _check_peft() -> None:
    if importlib.util.find_spec("peft") is None:
        raise InvalidInputError("LoRA needs peft. Install it: pip install 'textrl-envs[peft]'.")
