"""Several processes at one audit, as accelerate starts them: accelerate launch --multi_gpu --num_processes 2 -m edgesafe audit.

(`accelerate launch --cpu` starts one process only, unless there is MPI; --multi_gpu starts two without any GPU. torchrun does as well.)
They meet once, so that all are there before the first begins; from then on the gallery's claims divide the work, and none waits for a
message that a dead one would never send.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Team:
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """The one process that writes the folder."""
        return self.rank == 0


def join() -> Team:
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Team()
    from accelerate import PartialState

    state = PartialState(cpu=True)
    team = Team(state.process_index, state.num_processes)
    state.wait_for_everyone()
    state.destroy_process_group()
    return team
