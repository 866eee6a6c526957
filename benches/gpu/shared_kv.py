#!/usr/bin/env python3
"""Is KV that sequences of a batch share read more cheaply? One minute on an H100 or H200.

Times one call of decode attention (paged, 32 query and 4 KV heads of 128, BF16) on batches of
41, 94 and 188 sequences of 6,000 + 1,200 to 2,200 tokens, whose block tables share the 6,000
tokens not at all, in 19 groups, or all in one; the 19 in random order and group by group. If the
L2 cache makes a difference, 19 groups take less time than none; if not, they take as much.
Prints the times and what `engine.shared_kv` would be (docs/step-time.md).

    pip install torch flashinfer-python    # or FlashAttention 3 (flash_attn_interface)
    python3 benches/gpu/shared_kv.py

`--tables` prints the block tables' facts without a GPU.
"""

import argparse
import random
import statistics

HEADS, KV_HEADS, HEAD, BLOCK = 32, 4, 128, 16
SHARED, OWN = 6_000, (1_200, 2_200)
BATCHES = (41, 94, 188)
SHARINGS = {"none": None, "19 groups": 19, "19 groups in order": 19, "one group": 1}


def tables(batch, sharing):
    """Lengths, and a list of blocks for each sequence; blocks are numbered from 0."""
    draw = random.Random(1)
    lengths = [SHARED + draw.randint(*OWN) for _ in range(batch)]
    groups = SHARINGS[sharing]
    group_of = [i if groups is None else i % groups for i in range(batch)]
    if sharing.endswith("in order"):
        group_of.sort()
    else:
        draw.shuffle(group_of)
    shared_blocks, blocks, shared = SHARED // BLOCK, 0, {}
    rows = []
    for length, group in zip(lengths, group_of):
        if group not in shared:
            shared[group] = list(range(blocks, blocks + shared_blocks))
            blocks += shared_blocks
        own = -(-length // BLOCK) - shared_blocks
        rows.append(shared[group] + list(range(blocks, blocks + own)))
        blocks += own
    return lengths, rows, blocks


def saved_reads(holders, batch, at_once):
    """As src/engine/shared_kv.rs has it: reads saved of a block that so many hold."""
    if batch <= at_once:
        return holders - 1
    none = 1.0
    for i in range(at_once):
        none *= max(batch - holders - i, 0) / (batch - i)
    return holders - batch / at_once * (1 - none)


def repeats(rows, at_once):
    """Tokens whose reads are repeats within a wave."""
    holders = {}
    for row in rows:
        for block in row:
            holders[block] = holders.get(block, 0) + 1
    return BLOCK * sum(saved_reads(n, len(rows), at_once) for n in holders.values())


def kernels(torch):
    """Every kernel that is installed: name, and what makes a call of it."""
    found = {}
    try:
        from flash_attn_interface import flash_attn_with_kvcache

        def fa3(q, kv, lengths, rows):
            table = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int32, device="cuda")
            for i, row in enumerate(rows):
                table[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
            seqlens = torch.tensor(lengths, dtype=torch.int32, device="cuda")
            q = q.unsqueeze(1)
            return lambda: flash_attn_with_kvcache(
                q, kv[:, 0], kv[:, 1], cache_seqlens=seqlens, page_table=table, causal=True
            )

        found["FlashAttention 3"] = fa3
    except ImportError:
        pass
    try:
        import flashinfer

        def fi(q, kv, lengths, rows):
            workspace = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
            wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "NHD", use_tensor_cores=True)
            ends = [0]
            for row in rows:
                ends.append(ends[-1] + len(row))
            ints = lambda values: torch.tensor(values, dtype=torch.int32, device="cuda")
            last = [(length - 1) % BLOCK + 1 for length in lengths]
            wrapper.plan(
                ints(ends), ints([block for row in rows for block in row]), ints(last),
                HEADS, KV_HEADS, HEAD, BLOCK, q_data_type=q.dtype, kv_data_type=kv.dtype,
            )
            return lambda: wrapper.run(q, kv)

        found["FlashInfer"] = fi
    except ImportError:
        pass
    return found


def time_ms(torch, call, calls=30):
    for _ in range(5):
        call()
    times = []
    for _ in range(calls):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", action="store_true", help="only say what is shared")
    arguments = parser.parse_args()
    if arguments.tables:
        for batch in BATCHES:
            for sharing in SHARINGS:
                lengths, rows, blocks = tables(batch, sharing)
                read = sum(map(len, rows))
                share = repeats(rows, 33) / (read * BLOCK)
                print(f"{batch:4} {sharing:20} {blocks:7} of {read:7} blocks, {share:5.1%} repeats in waves of 33")
        return
    import torch

    gpu = torch.cuda.get_device_properties(0)
    at_once = gpu.multi_processor_count // KV_HEADS
    found = kernels(torch)
    if not found:
        raise SystemExit("neither flash_attn_interface nor flashinfer is installed")
    print(f"{gpu.name}: {gpu.multi_processor_count} multiprocessors, so {at_once} sequences at once")
    most = max(tables(batch, "none")[2] for batch in BATCHES)
    kv = torch.randn(most, 2, BLOCK, KV_HEADS, HEAD, dtype=torch.bfloat16, device="cuda")
    for name, make in found.items():
        kept = []
        for batch in BATCHES:
            q = torch.randn(batch, HEADS, HEAD, dtype=torch.bfloat16, device="cuda")
            times = {}
            for sharing in SHARINGS:
                lengths, rows, _ = tables(batch, sharing)
                times[sharing] = time_ms(torch, make(q, kv, lengths, rows))
            alone = times["none"]
            shown = ", ".join(f"{sharing} {time:.3f} ({time / alone - 1:+.0%})" for sharing, time in times.items())
            tokens = sum(tables(batch, "none")[0])
            rate = tokens * 2 * KV_HEADS * HEAD * 2 / alone / 1e9
            print(f"{name}, {batch} sequences: {shown} ms; {rate:.2f} TB/s where nothing is shared")
            share = repeats(tables(batch, "19 groups")[1], at_once) / tokens
            kept.append(((1 - times["19 groups"] / alone) / share, alone / times["one group"]))
        found_share = min(max(statistics.mean(kept_share for kept_share, _ in kept), 0.0), 1.0)
        # With one group nearly everything comes from L2.
        speed = statistics.mean(speed for _, speed in kept)
        print(
            f"{name}: engine.shared_kv = {{ sequences_at_once = {at_once}, "
            f"l2_speed = {max(speed, 1.01):.2f}, found = {found_share:.2f} }}"
        )


if __name__ == "__main__":
    main()
