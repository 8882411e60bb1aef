"""What a study is: its sections, blocks and runs. Imports nothing of ours and no torch."""

from lossbench.config.errors import ConfigError as ConfigError
from lossbench.config.errors import UserError as UserError
from lossbench.config.errors import counted as counted
from lossbench.config.errors import did_you_mean as did_you_mean
from lossbench.config.errors import duration as duration
from lossbench.config.experiment import BATCH_SETTINGS as BATCH_SETTINGS
from lossbench.config.experiment import MATCHED as MATCHED
from lossbench.config.experiment import Experiment as Experiment
from lossbench.config.experiment import Study as Study
from lossbench.config.experiment import canonical as canonical
from lossbench.config.experiment import load as load
from lossbench.config.experiment import load_study as load_study
from lossbench.config.experiment import merged as merged
from lossbench.config.experiment import unnamed as unnamed
from lossbench.config.metrics import METRICS as METRICS
from lossbench.config.metrics import STARTED as STARTED
from lossbench.config.metrics import Metric as Metric
from lossbench.config.sections import Augmentation as Augmentation
from lossbench.config.sections import Comparison as Comparison
from lossbench.config.sections import Component as Component
from lossbench.config.sections import Dataset as Dataset
from lossbench.config.sections import Execution as Execution
from lossbench.config.sections import Loss as Loss
from lossbench.config.sections import Matrix as Matrix
from lossbench.config.sections import Training as Training
from lossbench.config.validate import validate as validate
