"""Training steps of nnU-Net in its own environment; benchmarks/nnunet.py starts this file.

Reads a number of steps per line, takes them, and answers with the seconds that they took.
"""

import sys
import time
from pathlib import Path

import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main(preprocessed: Path) -> None:
    plans, dataset = (load_json(preprocessed / f) for f in ("nnUNetPlans.json", "dataset.json"))
    plans["continue_training"] = False  # as its command line does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = nnUNetTrainer(plans, "3d_fullres", 0, dataset, device)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    print("ready", flush=True)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            trainer.train_step(next(trainer.dataloader_train))
        print("seconds", time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
