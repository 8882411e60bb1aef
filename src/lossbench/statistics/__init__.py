"""Pure functions on arrays: differences, looks, plans, resampling. No files, no pandas."""

from lossbench.statistics.differences import Difference as Difference
from lossbench.statistics.differences import cases_tests as cases_tests
from lossbench.statistics.differences import crossed_difference as crossed_difference
from lossbench.statistics.differences import improvement as improvement
from lossbench.statistics.differences import models_difference as models_difference
from lossbench.statistics.differences import paired_difference as paired_difference
from lossbench.statistics.failures import failure_rate as failure_rate
from lossbench.statistics.failures import mcnemar as mcnemar
from lossbench.statistics.planning import Plan as Plan
from lossbench.statistics.planning import needed as needed
from lossbench.statistics.planning import pairing_gain as pairing_gain
from lossbench.statistics.planning import planned as planned
from lossbench.statistics.random_effects import RandomEffects as RandomEffects
from lossbench.statistics.random_effects import random_effects as random_effects
from lossbench.statistics.resampling import Ranks as Ranks
from lossbench.statistics.resampling import mean_interval as mean_interval
from lossbench.statistics.resampling import ranks as ranks
from lossbench.statistics.sequential import Looks as Looks
from lossbench.statistics.sequential import decide_rounds as decide_rounds
from lossbench.statistics.sequential import more_rounds_may_decide as more_rounds_may_decide
from lossbench.statistics.sequential import rounds_needed as rounds_needed
from lossbench.statistics.variance_components import Components as Components
from lossbench.statistics.verdicts import Decision as Decision
from lossbench.statistics.verdicts import decide as decide
from lossbench.statistics.verdicts import holm as holm
