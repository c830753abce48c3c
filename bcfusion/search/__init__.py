"""Hyperparameter search: Optuna behind Hydra's command line (``hparams_search=optuna``).

``space`` reads what may vary, ``study`` keeps what was tried, ``drive`` asks Optuna for values and reports the results,
``trial`` is the view of a single job, and ``sweeper`` makes ``optuna_sweeper`` known to Hydra. The results of jobs are
files in their directories; see :mod:`bcfusion.run.jobs`.
"""
