"""Other libraries: their prompts and rewards here, our environments there.

None is imported before it is used.

reasoning_gym  tasks of reasoning-gym as prompts, and their own scorers as reward
gem            single-turn environments of GEM as prompts and reward
datasets       Hugging Face datasets as prompts
trl            our environments as reward functions of TRL's trainers, and theirs as our reward
extras         how a library is asked for, and what is said where it is missing
"""
