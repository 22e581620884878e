"""Plans a second of other estimators on the questions of planner_bench.cpp (the same generator, seed and order of draws).

    python -m venv build/peer && build/peer/bin/pip install llm-analysis==0.2.2
    build/peer/bin/python tests/bench/peers_bench.py llm-analysis
    python tests/bench/peers_bench.py deepspeed            # needs deepspeed

One core, one process, after a first call that is not timed. What they answer: llm-analysis a breakdown of memory and time from formulas; DeepSpeed's estimate functions
the states' bytes for offloading and not, no activations, buffers or time.
"""
import itertools
import sys
import time

MODELS = {  # name: hidden, layers, heads, kv heads, ffn, vocabulary, parameters, largest layer's parameters (the embedding)
    "internlm2-20b": (6144, 48, 48, 8, 16384, 92544, 19861149696, 92544 * 6144),
    "llama-3-8b": (4096, 32, 32, 8, 14336, 128256, 8030261248, 128256 * 4096),
    "qwen2.5-7b": (3584, 28, 28, 4, 18944, 152064, 7615616512, 152064 * 3584),
}


def mt19937_64(seed):
    """std::mt19937_64."""
    mask = (1 << 64) - 1
    state = [seed]
    for i in range(1, 312):
        state.append((6364136223846793005 * (state[-1] ^ (state[-1] >> 62)) + i) & mask)
    while True:
        for i in range(312):
            x = (state[i] & 0xFFFFFFFF80000000) | (state[(i + 1) % 312] & 0x7FFFFFFF)
            state[i] = state[(i + 156) % 312] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
        for y in list(state):
            y ^= (y >> 29) & 0x5555555555555555
            y ^= (y << 17) & 0x71D67FFFEDA60000
            y ^= (y << 37) & 0xFFF7EEE000000000
            yield y ^ (y >> 43)


def questions(count):
    random = mt19937_64(20240229)
    below = lambda limit: next(random) % limit
    seen, names = {}, list(MODELS)
    while len(seen) < count:
        name = names[below(3)]
        stage, blocks, prefetch = below(4), below(MODELS[name][1] + 1), below(4)
        accumulate, micro, overlap, seq = 1 << below(5), 1 << below(3), below(2), 2048 << below(3)
        seen[(name, stage, blocks, prefetch, accumulate, micro, overlap, seq)] = None
    return list(seen)


def llm_analysis_answer():
    import logging

    logging.disable(logging.CRITICAL)
    from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis
    from llm_analysis.config import ModelConfig, ParallelismConfig, get_dtype_config_by_name, get_gpu_config_by_name

    gpu, dtype, parallel = get_gpu_config_by_name("a100-sxm-80gb"), get_dtype_config_by_name("w16a16e16"), ParallelismConfig(tp_size=1, pp_size=1, dp_size=8)

    def answer(question):
        name, stage, blocks, _, accumulate, micro, _, seq = question
        hidden, layers, heads, kv, ffn, vocabulary, _, _ = MODELS[name]
        width = round(ffn / hidden) * hidden  # it takes multiples of the hidden size only
        model = ModelConfig(name=name, num_layers=layers, n_head=heads, hidden_dim=hidden, vocab_size=vocabulary, max_seq_len=16384, num_key_value_heads=kv, ffn_embed_dim=width)
        return LLMAnalysis(model, gpu, dtype, parallel).training(
            batch_size_per_gpu=micro, gradient_accumulation_steps=accumulate, seq_len=seq, ds_zero=DSZeRO(stage), mlp_gated_linear_units=True, total_num_tokens=seq * micro * 8 * accumulate,
            activation_recomputation=ActivationRecomputation.FULL if blocks else ActivationRecomputation.NONE)

    return answer


def deepspeed_answer():
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    def answer(question):
        name, stage = question[:2]
        parameters, largest = MODELS[name][6:]
        if stage == 3:
            return estimate_zero3_model_states_mem_needs(parameters, largest, num_gpus_per_node=8, num_nodes=1, cpu_offload=False, cpu_offload_params=False, zero_init=True)
        return estimate_zero2_model_states_mem_needs(parameters, num_gpus_per_node=8, num_nodes=1, cpu_offload=False)

    return answer


def main():
    answer = {"llm-analysis": llm_analysis_answer, "deepspeed": deepspeed_answer}[sys.argv[1]]()
    asked = questions(4096)
    answered, refused, last = 0, 0, None
    try:
        answer(asked[0])
    except Exception as error:  # a plan that it cannot be asked is counted below
        last = error
    start, seconds = time.process_time(), 0.0
    for question in itertools.cycle(asked):
        try:
            answer(question)
            answered += 1
        except Exception as error:
            refused, last = refused + 1, error
        seconds = time.process_time() - start
        if seconds >= 10:
            break
    print(f"{sys.argv[1]}: {(answered + refused) / seconds:.0f} plans/s ({answered} answered, {refused} refused{f': {last!r}'[:200] if refused else ''}) in {seconds:.1f} s of CPU time")


main()
