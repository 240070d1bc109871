"""Training: when a training run starts, what its drift is, what it trains on, and the candidate it proposes.

`trigger`, `cause` and `training_run` decide and are pure; `scheduler` and `trainer` read the lake and write
the registry. The models themselves are made in `model_service.models`.
"""
