"""One side of the comparison of tuning: steps on the same rows, in place or on the dequantized model."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baremetalrt.tuning.requirements import prepare

prepare()
ARGUMENTS: dict[str, Any] = json.loads(sys.argv[1])

import torch  # noqa: E402

from baremetalrt.tuning.config import TuneConfig  # noqa: E402
from baremetalrt.tuning.model import TunableModel  # noqa: E402
from baremetalrt.tuning.trained_adapter import TrainableAdapter  # noqa: E402
from baremetalrt.tuning.trainer import make_optimizer  # noqa: E402
from processes import peak_memory_bytes  # noqa: E402

CONFIG = TuneConfig(targets=ARGUMENTS["targets"])
Step = Callable[[torch.Tensor], torch.Tensor]


def ours(path: Path) -> tuple[Step, Any]:
    model = TunableModel(path, num_threads=ARGUMENTS["num_threads"])
    model.set_checkpointing(ARGUMENTS["checkpointing"])
    adapter = TrainableAdapter(model, CONFIG, ARGUMENTS["rank"], "bench")
    adapter.peft.train()
    return lambda ids: model.token_losses(ids[:, :-1], ids[:, 1:]).mean(), adapter.peft


def plain(path: Path) -> tuple[Step, Any]:
    import peft

    from plain_tuning import plain_model

    model = plain_model(path)
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    targets = (ARGUMENTS["targets"] or ",".join(linears)).split(",")
    rank = ARGUMENTS["rank"]
    config = peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM"
    )
    tuned = peft.get_peft_model(model, config)
    if ARGUMENTS["checkpointing"]:
        tuned.gradient_checkpointing_enable({"use_reentrant": False})
    tuned.train()

    def step(ids: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = tuned(input_ids=ids[:, :-1], labels=ids[:, :-1]).loss
        return loss

    return step, tuned


def main() -> None:
    torch.set_num_threads(ARGUMENTS["num_threads"])
    path = Path(ARGUMENTS["model"])
    step, network = (ours if ARGUMENTS["side"] == "ours" else plain)(path)
    parameters = [p for p in network.parameters() if p.requires_grad]
    if ARGUMENTS["side"] == "ours":
        named = {n: p for n, p in network.named_parameters() if p.requires_grad}
        optimizer, keeps = make_optimizer(named), True
    else:
        optimizer, keeps = torch.optim.AdamW(parameters, lr=1e-4), False
    # What loading took is forgotten: the peak of training is what is compared.
    Path("/proc/self/clear_refs").write_text("5")
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command == "memory":
            print(json.dumps({"peak_bytes": peak_memory_bytes()}), flush=True)
            continue
        ids = torch.tensor(command["rows"])
        started, computed = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=not keeps)
        loss = step(ids)
        loss.backward()
        optimizer.step()
        seconds = time.perf_counter() - started
        answer = {"seconds": seconds, "loss": loss.item()}
        answer["computed_s"] = time.process_time() - computed
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
