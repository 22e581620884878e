"""Exports many plans and asks the real parsers what they make of the files: tests/data/export_accepted.json.

    python tests/planner/export/accept.py build/release/bin/zeroplan tests/data/export_accepted.json

Needs deepspeed, accelerate, transformers and mmengine in this Python; ctest needs none of it. DeepSpeed is asked in a process with a fake group of the cluster's ranks, so
that it checks train_batch_size; Accelerate through the parser of `accelerate launch`, whose environment then makes the plugin; XTuner's file is read by mmengine.
Any refusal ends the script without a file.
"""
import ast
import datetime
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile

A100 = "--on 8xa100-80g"
FILES = {"deepspeed": "ds.json", "accelerate": "acc.yaml", "xtuner": "xt.py"}


def cases():
    """(target, words of zeroplan export) of every file."""
    out = []
    for stage in (1, 2, 3):
        for offload in ("none", "cpu"):
            for compute in ("bf16", "fp16", "fp32"):
                out.append(("deepspeed", f"internlm2-20b {A100} --stage {stage} --offload-optimizer {offload} --compute-dtype {compute}"))
    out.append(("deepspeed", f"internlm2-20b {A100} --stage 3 --offload-optimizer cpu --offload-parameters cpu"))
    out.append(("deepspeed", f"internlm2-20b {A100} --stage 3 --offload-optimizer cpu --offload-optimizer-ratio 0.3"))
    out.append(("deepspeed", f"internlm2-20b {A100} --stage 3 --offload-optimizer nvme --offload-parameters nvme --nvme-path nvme"))
    out.append(("deepspeed", f"llama-2-7b {A100} --stage 2 --micro-batch 3 --accumulate 5 --clip-norm 0.5 --gradient-dtype fp32 --reduce-dtype fp32"))
    out.append(("deepspeed", "llama-2-7b --on 2x8xh100-80g --stage 3 --sequence-parallel 4"))
    for switch in ('"reduce_bucket_size": 12345678, "allgather_bucket_size": 7', '"overlap_comm": false, "contiguous_gradients": false', '"bf16_master_weights_and_grads": true, "bf16_optimizer_states": true',
                   '"round_robin_gradients": true, "deepcompile": true', '"stage3_max_live_parameters": 30000000, "stage3_prefetch_bucket_size": 0, "stage3_param_persistence_threshold": 61440'):
        moments = " --optimizer-dtype bf16" if "bf16_optimizer_states" in switch else ""
        out.append(("deepspeed", f"llama-2-7b {A100} --stage 3 --deepspeed '{{{switch}}}'{moments}"))
    out.append(("deepspeed", f"llama-2-7b {A100} --stage 2 --parameters-dtype fp32 --deepspeed '{{\"torch_autocast\": true}}'"))
    out.append(("deepspeed", f"llama-2-7b {A100} --stage 2 --tool null --optimizer-kernel fused"))
    out.append(("deepspeed", f"llama-2-7b {A100} --stage 2 --tool null --optimizer adam --offload-optimizer cpu --optimizer-kernel cpu"))
    out.append(("deepspeed", f"llama-2-7b {A100} --stage 3 --tool null --optimizer lion --optimizer-kernel fused"))
    for stage in (0, 1, 2, 3):
        out.append(("deepspeed", f"qwen2.5-7b {A100} --stage {stage} --engine zeroplan --keep attention_out --checkpoint blocks-9 --overlap-comm false"))
    for preset in ("xtuner-zero1", "xtuner-zero2-offload", "xtuner-zero3-offload", "hf-auto-zero2", "hf-auto-zero3", "llamafactory-z2-offload", "llamafactory-z3", "swift-zero2", "swift-zero3"):
        out.append(("deepspeed", f"llama-2-7b {A100} --preset {preset}"))
    for words in ("--stage 1", "--stage 2 --offload-optimizer cpu", "--stage 3", "--stage 3 --compute-dtype fp16", "--stage 3 --engine zeroplan", "--preset hf-auto-zero3", "--preset llamafactory-z2-offload"):
        out.append(("accelerate", f"internlm2-20b {A100} {words}"))
    for words in ("", "--stage 2", "--reshard never --checkpoint none", "--offload-optimizer cpu --offload-parameters cpu", "--parameters-dtype bf16", "--compute-dtype fp16", "--compute-dtype fp32", "--offload-activations cpu",
                  "--shard-group 8"):
        out.append(("accelerate", f"qwen3-8b --on 2x8xh100-80g --engine fsdp2 {words}".strip()))
    for model in ("gpt2", "baichuan2-13b", "mixtral-8x7b", "gemma-2-9b"):
        out.append(("accelerate", f"{model} {A100} --engine fsdp2"))
    out.append(("accelerate", f"gpt2 {A100} --engine ddp"))
    out.append(("accelerate", "gpt2 --on a100-80g --engine single"))
    for words in ("--stage 1", "--stage 2", "--stage 2 --offload-optimizer cpu", "--stage 3", "--stage 3 --offload-optimizer cpu --offload-parameters cpu", "--stage 3 --compute-dtype fp32", "--stage 3 --engine zeroplan",
                  "--stage 3 --sequence-parallel 4 --seq 32768", "--train lora-64", "--optimizer-kernel fused --accumulate 16 --packed false", "--stage 2 --optimizer paged-adamw-8bit --checkpoint none"):
        out.append(("xtuner", f"internlm2-20b {A100} {words}"))
    out.append(("xtuner", f"""llama-2-7b {A100} --train '{{"lora_rank": 16, "lora_targets": ["q_proj", "v_proj"], "base_dtype": "nf4"}}'"""))
    return out


def export(program, target, words, folder):
    """The files by name, as written."""
    name = FILES[target]
    subprocess.run(f"{program} export {words} --to {target} -o {name}", shell=True, cwd=folder, check=True, capture_output=True)
    return {file: open(os.path.join(folder, file), encoding="utf-8").read() for file in sorted(os.listdir(folder))}


def ask_deepspeed(path, ranks):
    from deepspeed.runtime.config import DeepSpeedConfig

    given = json.load(open(path, encoding="utf-8"))
    grouped = "sequence_parallel_size" in given  # read from a dict only
    config = DeepSpeedConfig(given if grouped else path)
    return {
        "ranks": ranks,
        "world_size": int(config.world_size),
        "train_batch_size": config.train_batch_size,
        "train_micro_batch_size_per_gpu": config.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": {key: value for key, value in config.zero_config.model_dump(by_alias=True, mode="json").items() if key in given["zero_optimization"]},
        "bf16": config.bfloat16_config.model_dump(mode="json"),
        "fp16": config.float16_config.model_dump(mode="json"),
        "torch_autocast_enabled": config.torch_autocast_enabled,
        "torch_autocast_dtype": str(config.torch_autocast_dtype),
        "grad_accum_dtype": config.grad_accum_dtype,
        "communication_data_type": str(config.communication_data_type),
        "optimizer_name": config.optimizer_name,
        "zero_allow_untested_optimizer": config.zero_allow_untested_optimizer,
        "zero_force_ds_cpu_optimizer": config.zero_force_ds_cpu_optimizer,
        "deepcompile": config.compile_config.deepcompile,
    }


def launch_environment(path):
    """What `accelerate launch` would set for the script."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    args, defaults, mixed_from_file = _validate_launch_command(launch_command_parser().parse_args(["--config_file", path, "train.py"]))
    if args.use_deepspeed:
        fields = list(defaults.deepspeed_config) + (["mixed_precision"] if mixed_from_file else [])
        args.deepspeed_fields_from_accelerate_config = ",".join(fields)
        return args, prepare_deepspeed_cmd_env(args)[1]
    return args, prepare_multi_gpu_env(args)


def plugin_of(args):
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin

    if args.use_deepspeed:
        plugin = DeepSpeedPlugin()
        plugin.set_mixed_precision(args.mixed_precision)  # as Accelerator does
        config = plugin.deepspeed_config
        return {"zero_stage": plugin.zero_stage, "zero3_init_flag": plugin.zero3_init_flag, "gradient_clipping": plugin.gradient_clipping, "gradient_accumulation_steps": plugin.gradient_accumulation_steps,
                "offload_optimizer_device": plugin.offload_optimizer_device, "offload_param_device": plugin.offload_param_device, "reduce_bucket_size": config["zero_optimization"]["reduce_bucket_size"], "bf16": config["bf16"]["enabled"],
                "fp16": config["fp16"]["enabled"]}
    if args.use_fsdp:
        plugin = FullyShardedDataParallelPlugin()
        return {"fsdp_version": plugin.fsdp_version, "reshard_after_forward": plugin.reshard_after_forward, "cpu_offload": type(plugin.cpu_offload).__name__, "state_dict_type": plugin.state_dict_type.name,
                "auto_wrap_policy": plugin.auto_wrap_policy.__name__, "transformer_cls_names_to_wrap": plugin.transformer_cls_names_to_wrap, "activation_checkpointing": plugin.activation_checkpointing,
                "activation_checkpointing_offload": plugin.activation_checkpointing_offload, "cpu_ram_efficient_loading": plugin.cpu_ram_efficient_loading}
    return {}


def ask_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(path)
    before = dict(os.environ)
    try:
        args, environment = launch_environment(path)
        os.environ.update(environment)
        plugin = plugin_of(args)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return {"distributed_type": config.distributed_type.value, "num_machines": config.num_machines, "num_processes": config.num_processes, "mixed_precision": args.mixed_precision, "plugin": plugin,
            "parallelism": {key: value for key, value in sorted(environment.items()) if key.startswith("PARALLELISM_CONFIG_DP")}}


def ask_mmengine(path):
    from mmengine.config import Config

    ast.parse(open(path, encoding="utf-8").read())
    config = Config.fromfile(path)
    optimizer = dict(dict.items(config.optim_wrapper.optimizer))  # as read: the class is not imported
    optimizer_class = str(optimizer.pop("type"))
    return {"max_length": config.train_dataloader.dataset.max_length, "pack_to_max_length": config.train_dataloader.dataset.pack_to_max_length, "batch_size": config.train_dataloader.batch_size,
            "accumulative_counts": config.optim_wrapper.accumulative_counts, "max_norm": config.optim_wrapper.clip_grad.max_norm, "sequence_parallel_size": config.sequence_parallel_size,
            "use_activation_checkpointing": config.model.use_activation_checkpointing, "optimizer": optimizer, "optimizer_class": optimizer_class}


def ask(program, target, words, ranks):
    with tempfile.TemporaryDirectory() as folder:
        files = export(program, target, words, folder)
        here = os.getcwd()
        os.chdir(folder)
        try:
            parsed = {}
            for file in files:
                if file.endswith(".json"):
                    parsed[file] = ask_deepspeed(file, ranks)
                elif file.endswith(".yaml"):
                    parsed[file] = ask_accelerate(file)
                else:
                    parsed[file] = ask_mmengine(file)
        finally:
            os.chdir(here)
    return {"target": target, "words": words, "files": files, "parsed": parsed}


def ranks_of(words):
    sizes = words.split("--on ")[1].split()[0].split("x")[:-1]
    return eval("*".join(sizes)) if sizes else 1


def answer_for(program, ranks):
    """One process for each number of ranks: DeepSpeed asks the process group."""
    import deepspeed
    import torch.distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    deepspeed.init_distributed(dist_backend="fake", auto_mpi_discovery=False)
    return [ask(program, target, words, ranks) if ranks_of(words) == ranks else None for target, words in cases()]


def main():
    program, out = os.path.abspath(sys.argv[1]), sys.argv[2]
    if len(sys.argv) == 4:  # a child
        with open(out, "w", encoding="utf-8") as file:
            json.dump(answer_for(program, int(sys.argv[3])), file)
        return
    rows = [None] * len(cases())
    for ranks in sorted({ranks_of(words) for _, words in cases()}):
        with tempfile.TemporaryDirectory() as folder:
            part = os.path.join(folder, "part.json")
            subprocess.run([sys.executable, __file__, program, part, str(ranks)], check=True)
            rows = [old or new for old, new in zip(rows, json.load(open(part, encoding="utf-8")))]
    assert all(rows)
    head = {"command": "python tests/planner/export/accept.py build/release/bin/zeroplan tests/data/export_accepted.json", "date": datetime.date.today().isoformat(),
            "versions": {name: importlib.metadata.version(name) for name in ("deepspeed", "accelerate", "transformers", "torch", "mmengine")}}
    with open(out, "w", encoding="utf-8") as file:
        json.dump({**head, "rows": rows}, file, indent=1, ensure_ascii=False)
        file.write("\n")


main()
