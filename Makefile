# make install   a .venv with the package and its tools
# make demo      installs, and trains PPO on textrl/Keyword-v0
# make test      installs, and runs every check that CI runs
# make check     the quick part: lint, types, import contracts, fast tests
# make bench     speed beside peers
# make apart     a .venv-apart, and the tests of libraries whose pins the others cannot share
# make peers     a .venv-trl-ppo and a .venv-trl, for the peers of the speed benchmark

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
EXTRAS := ray,peft,sb3-contrib,torchrl,trl,reasoning-gym,datasets
PEERS := benchmarks/textrl_benchmarks/speed/peers
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MPLBACKEND := Agg

.PHONY: install browser peers apart demo test check bench lint types contracts tests wheel

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,$(EXTRAS)]"
	# Not as an extra: it pins an older reasoning-gym.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps gem-llm
	touch $@

# A Chromium for the test of the leaderboard's page, where one may be installed.
browser:
	@command -v chromium chromium-browser google-chrome > /dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && \
	    apt-get install -y -qq --no-install-recommends chromium > /dev/null; } || \
	  echo "No Chromium: the test of the leaderboard's page in a browser will be skipped."

peers: .venv-trl-ppo/installed .venv-trl/installed

.venv-trl-ppo/installed: $(PEERS)/trl_ppo.txt
.venv-trl/installed: $(PEERS)/trl.txt

.venv-trl-ppo/installed .venv-trl/installed: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --constraint constraints.txt torch==2.13.0
	grep -v "^trl==" constraints.txt > $(@D)/constraints.txt  # each peer is a TRL of its own
	$(@D)/bin/pip install --quiet --constraint $(@D)/constraints.txt --requirement $(filter %/trl_ppo.txt %/trl.txt,$^)
	touch $@

# RLlib pins gymnasium 1.2.2, the oldest that the environments run with; PufferLib's own pins are
# older still, and it runs without them.
.venv-apart/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-apart
	grep -v "^gymnasium=" constraints.txt > .venv-apart/constraints.txt
	.venv-apart/bin/pip install --quiet --constraint .venv-apart/constraints.txt torch==2.13.0
	.venv-apart/bin/pip install --quiet --constraint .venv-apart/constraints.txt --editable ".[rllib]" pytest pytest-xdist psutil
	.venv-apart/bin/pip install --quiet --no-deps pufferlib==2.0.2 gym==0.23.0
	touch $@

apart: .venv-apart/installed
	OMP_NUM_THREADS=1 .venv-apart/bin/python -m pytest -q -n 2 --dist worksteal tests/interop/test_rllib.py \
	  tests/interop/test_pufferlib.py tests/interop/test_interop_page.py tests/envs/test_vector_env.py \
	  tests/envs/test_text_env.py tests/envs/test_registration.py tests/envs/wrappers

demo: install
	$(BIN)/textrl train

test: install browser lint types contracts tests wheel apart

check: install lint types contracts
	$(BIN)/pytest -q -n 2 -m "not slow"

bench: install
	$(BIN)/textrl speed

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

tests:
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist worksteal

wheel:
	$(BIN)/python tests/wheel_check.py
