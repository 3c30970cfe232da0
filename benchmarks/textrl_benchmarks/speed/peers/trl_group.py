"""TRL's RLOO and GRPO on the comparison job: `.venv-trl/bin/python trl_group.py FOLDER`.

`--algorithm grpo` takes GRPO; see `harness` for the rest. One update is what the trainer does from
one generation to the next: epochs times minibatches of its steps. Neither has a value model.
"""

import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textrl_benchmarks.speed.peers.harness import Arguments, Clock

GROUP = 4
"""Responses to one prompt; a batch has batch / 4 prompts."""


def main() -> None:
    """Runs the job and prints what it took."""
    import harness

    arguments = harness.read_arguments(["rloo", "grpo"])
    try:
        import trl
    except ImportError:
        harness.fail("This Python has no TRL: `make peers` makes .venv-trl, use that.")
    name = arguments.algorithm.upper()
    trainer_class = watched(getattr(trl, f"{name}Trainer"), harness.Clock(arguments))
    with tempfile.TemporaryDirectory() as out:
        config = getattr(trl, f"{name}Config")(**settings(arguments), output_dir=out)
        trainer = make_trainer(arguments, trainer_class, config)
        trainer.train()
    packages = ("trl", "transformers", "torch", "accelerate")
    harness.report(trainer.clock, peer="trl", packages=packages, group=GROUP)


def make_trainer(arguments: "Arguments", trainer_class: Any, config: Any) -> Any:  # noqa: ANN401
    """Returns the trainer of the job's models and prompts."""
    import harness
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification as Classifier
    from transformers import AutoTokenizer, GPT2LMHeadModel

    folder = arguments.folder
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", padding_side="left")
    prompts = [tokenizer.decode(ids) for ids in harness.prompts_of(arguments)]
    return trainer_class(
        args=config,
        processing_class=tokenizer,
        model=GPT2LMHeadModel.from_pretrained(folder / "policy"),
        reward_funcs=Classifier.from_pretrained(folder / "reward_model"),
        reward_processing_classes=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )


def settings(arguments: "Arguments") -> dict[str, Any]:
    """Returns the settings under which TRL does the job as it is."""
    job = arguments.job
    return {
        # Two defaults that make another job of it: bfloat16, and every forward done twice.
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "per_device_train_batch_size": job["batch"] // arguments.minibatches,
        "steps_per_generation": arguments.minibatches,
        "num_iterations": arguments.epochs,
        "max_steps": arguments.updates * arguments.steps,
        "gradient_accumulation_steps": 1,
        "num_generations": GROUP,
        "max_completion_length": job["new_tokens"],
        "temperature": job["temperature"],
        "top_k": 0,
        "top_p": 1.0,
        "beta": job["kl_coefficient"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "constant",
        "logging_strategy": "no",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": job["seed"],
    }


def watched(trainer_class: Any, clock: "Clock") -> Any:  # noqa: ANN401 - TRL's own
    """Returns the trainer with methods that look at the clock after they have done their work."""
    from transformers import TrainerCallback

    class Watched(trainer_class):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:  # noqa: ANN401
            self.clock = clock
            super().__init__(**given, callbacks=[EndOfUpdate()])

        def _generate_single_turn(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401
            found = super()._generate_single_turn(*given, **named)
            # GRPO's has the log-probabilities of the sampler beside the ids.
            completions = found[0] if isinstance(found, tuple) else found
            clock.note_lengths([len(ids) for ids in completions])
            clock.end("generate")
            return found

        def _generate_and_score_completions(self, *given: Any) -> Any:  # noqa: ANN401
            found = super()._generate_and_score_completions(*given)
            clock.end("score")
            return found

    class EndOfUpdate(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:  # noqa: ANN401
            clock.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            clock.end("optimise")
            if state.global_step % clock.arguments.steps == 0:
                clock.end_update()

    return Watched


if __name__ == "__main__":
    main()
