"""TRL's PPO on the comparison job: `.venv-trl-ppo/bin/python trl_ppo.py FOLDER`, see `harness`.

One update is all that `PPOTrainer.train` does between two `on_step_end`: it generates, scores by
reference, value and reward model, and optimises. Nothing of it is replaced; three of its functions
are wrapped by ones that look at the clock, too.
"""

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textrl_benchmarks.speed.peers.harness import Arguments, Clock


def main() -> None:
    """Runs the job and prints what it took."""
    import harness

    arguments = harness.read_arguments(["ppo"])
    try:
        import trl.experimental.ppo
    except ImportError:
        harness.fail("This Python has no TRL with PPO: `make peers` makes .venv-trl-ppo, use that.")
    clock = harness.Clock(arguments)
    watch(trl.experimental.ppo.ppo_trainer, clock, pad=arguments.job["pad_token_id"])
    with tempfile.TemporaryDirectory() as out:
        make_trainer(arguments, clock, out).train()
    harness.report(clock, peer="trl", packages=("trl", "transformers", "torch", "accelerate"))


def make_trainer(arguments: "Arguments", clock: "Clock", out: str) -> Any:  # noqa: ANN401
    """Returns the trainer of the job's models and prompts."""
    import harness
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification as Classifier
    from transformers import AutoTokenizer, GPT2LMHeadModel
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    folder = arguments.folder
    return PPOTrainer(
        args=PPOConfig(**settings(arguments), output_dir=out),
        processing_class=AutoTokenizer.from_pretrained(folder / "tokenizer", padding_side="left"),
        model=GPT2LMHeadModel.from_pretrained(folder / "policy"),
        ref_model=GPT2LMHeadModel.from_pretrained(folder / "policy"),
        reward_model=Classifier.from_pretrained(folder / "reward_model"),
        value_model=Classifier.from_pretrained(folder / "value_model"),
        train_dataset=Dataset.from_dict({"input_ids": harness.prompts_of(arguments)}),
        callbacks=[end_of_update(clock)],
    )


def settings(arguments: "Arguments") -> dict[str, Any]:
    """Returns the settings under which TRL does the job as it is."""
    job = arguments.job
    return {
        # Two defaults that make another job of it: bfloat16, and every forward done twice.
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "per_device_train_batch_size": job["batch"],
        # More than 1 would not only cut the batch: it also skips steps of the optimiser.
        "gradient_accumulation_steps": 1,
        "num_ppo_epochs": arguments.epochs,
        "num_mini_batches": arguments.minibatches,
        "total_episodes": arguments.updates * job["batch"],
        "local_rollout_forward_batch_size": job["batch"],
        "response_length": job["new_tokens"],
        "stop_token": "eos",
        "temperature": job["temperature"],
        "kl_coef": job["kl_coefficient"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "num_sample_generations": 0,
        "report_to": "none",
        "save_strategy": "no",
        "seed": job["seed"],
    }


def watch(module: Any, clock: "Clock", *, pad: int) -> None:  # noqa: ANN401 - TRL's own
    """Wraps the last function of each phase."""

    def note_lengths(postprocessed: Any) -> None:  # noqa: ANN401 - a tensor
        clock.note_lengths((postprocessed != pad).sum(1).tolist())

    _after(module, "batch_generation", lambda _: clock.end("generate"))
    # It cuts the responses behind EOS.
    _after(module, "truncate_response", note_lengths)
    # It is called once, for the advantages: what comes next are the epochs.
    _after(module, "masked_whiten", lambda _: clock.end("score"))


def end_of_update(clock: "Clock") -> Any:  # noqa: ANN401 - Transformers' own
    """Returns a callback that looks at the clock when training begins and after each update."""
    from transformers import TrainerCallback

    class EndOfUpdate(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
            clock.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
            clock.end("optimise")
            clock.end_update()

    return EndOfUpdate()


def _after(module: Any, name: str, look: Callable[[Any], None]) -> None:  # noqa: ANN401
    """Lets `look` see what a function of the module returns."""
    function = getattr(module, name)

    def wrapped(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        found = function(*given, **named)
        look(found)
        return found

    setattr(module, name, wrapped)


if __name__ == "__main__":
    main()
