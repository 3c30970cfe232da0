"""Search agents: they learn nothing, and spend their tokens when they act.

best_of_n.py     draws n responses and says the best
mcts.py          Monte-Carlo tree search over the tokens of a response
agent.py         what makes an agent of either
tree.py          the arithmetic of a search tree
tree_search.py   simulations in many trees at once
simulator.py     a private copy of the environment, where texts are tried
"""

from textrl_agents.search.agent import SearchAgent
from textrl_agents.search.best_of_n import BestOfN, BestOfNPolicy
from textrl_agents.search.mcts import MCTS, MCTSPolicy

__all__ = ["MCTS", "BestOfN", "BestOfNPolicy", "MCTSPolicy", "SearchAgent"]
