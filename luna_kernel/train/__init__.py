"""Training: one loop, objectives, optimisers, schedules, callbacks, and runs that no interruption harms.

from luna_kernel.train.training import train_model
result = train_model(TrainConfig(run_dir="runs/a", train_data=("data/",)), plugins=load_plugins())
"""
