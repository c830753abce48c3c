"""Search over hyperparameters: Optuna behind Hydra's command line (``hparams_search=optuna``).

``space`` reads what may vary, ``study`` keeps what was tried, ``drive`` asks and tells, ``trial`` is a job's own view;
``jobs`` is what a job of any sweep leaves in its directory, for all of them and for reports to read.
"""
